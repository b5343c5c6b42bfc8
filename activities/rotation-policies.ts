import { beginDisplaced, beginDue, countUnderWay, restartBegun, type DuePlace } from '../db/rotation-beginnings.ts';
import { endStalledOrders } from '../db/rotation-orders.ts';
import { findRotationPolicy } from '../db/rotation-policies.ts';
import { rotateCertificateId, rotationOver } from '../workflows/rotate-certificate.ts';
import type { Deps } from './deps.ts';

const workflow = { idPrefix: rotateCertificateId(''), name: 'rotateCertificate' };
const poke = { workflowIdPrefix: rotateCertificateId(''), signal: rotationOver.name };

/** `next` is where the next page begins; undefined when this run is over. */
type Page = { count: number; next?: DuePlace };

export const rotationPolicyActivities = ({ db, clock }: Pick<Deps, 'db' | 'clock'>) => ({
  /**
   * Begins the next rotations of a policy, as many as its pace and its bound let: first those whose authority has ended, then
   * those whose time has come. Repeating it is safe: what is begun is passed over.
   */
  async beginDueRotations({ policy, after }: { policy: string; after?: DuePlace }): Promise<Page> {
    const found = await findRotationPolicy(db, policy);
    if (!found || found.paused) return { count: 0 };
    if (!after) {
      await endStalledOrders(db, poke);
      await restartBegun(db, policy, workflow);
    }
    const room = Math.min(found.perMinute, found.atOnce - (await countUnderWay(db, policy)));
    if (room <= 0) return { count: 0 };
    const at = clock?.();
    const displaced = await beginDisplaced(db, { policy, at, limit: room }, workflow);
    const limit = room - displaced.length;
    if (limit === 0) return { count: room, next: after ?? start };
    const due = await beginDue(db, { policy, at, limit, after }, workflow);
    const count = displaced.length + due.length;
    const last = due.at(-1);
    return due.length < limit || !last ? { count } : { count, next: { at: last.place, id: last.certificateId } };
  },
});

const start: DuePlace = { at: '-infinity', id: '' };
