import { createAnswers, unavailable, type AnswersDeps } from '../doors/answers.ts';
import { createCoalescer } from '../doors/coalescer.ts';
import { createEntrance, type EntranceDeps } from '../doors/entrance.ts';
import { findManufactured } from '../doors/manufacturers.ts';
import { findRefusal, type RefusalDetail } from '../workflows/refusals.ts';
import type { ConnectRequest } from './messages.ts';
import type { RefusalLog } from './refusals.ts';
import { createBuckets } from './throttle.ts';

export type NewcomersDeps = EntranceDeps & AnswersDeps & { refusals: Pick<RefusalLog, 'record'> };

/** What became of somebody whom no row knows: nobody of ours, a device now, or a no. */
export type Introduced = 'stranger' | 'enrolled' | { refused: RefusalDetail };
export type Introduce = (request: Pick<ConnectRequest, 'fingerprint' | 'presented'>) => Promise<Introduced>;

/**
 * The door of devices that connect with the certificate which their manufacturer gave them: one that chains to a registered
 * authority becomes the device's own, and with it the device is enrolled. Of many connections of one device, one asks; one
 * that is refused and comes again and again is told to wait without asking anybody.
 */
export function createNewcomers(deps: NewcomersDeps): Introduce {
  const { db, refusals } = deps;
  const entrance = createEntrance(deps);
  const answer = createAnswers(deps);
  const asking = createCoalescer();
  const attempts = createBuckets(1 / 10, { burst: 6 });

  async function introduce(fingerprint: string, presented: Uint8Array[]): Promise<Introduced> {
    const found = await findManufactured(db, presented).catch(refusalOf);
    if (!found) return 'stranger';
    if ('refused' in found) return found;
    const { permit, certificate } = found;
    if (!attempts.take(fingerprint)) return { refused: unavailable('this device asks too often; try again later') };
    const answered = await answer(() => entrance.adopt(permit, certificate));
    if (!('refused' in answered)) return 'enrolled';
    const { code, detail } = answered.refused;
    const actor = `claim/${permit.claimId}`;
    refusals.record(actor, { action: 'enrolment.refused', subject: actor, data: { code, detail } });
    return answered;
  }

  return ({ fingerprint, presented = () => [] }) => {
    const key = Buffer.from(fingerprint).toString('hex');
    return asking(key, () => introduce(key, presented()));
  };
}

function refusalOf(error: unknown): { refused: RefusalDetail } {
  const refused = findRefusal(error);
  if (!refused) throw error;
  return { refused };
}
