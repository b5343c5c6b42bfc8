import { continueAsNew, proxyActivities, proxyLocalActivities, sleep } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { howeverLongItTakes, untilItIsDone } from './policies.ts';

export type RolloverAuthority = {
  /** The one that takes over: certified, and standing by. */
  authorityId: string;
  /** Between two looks at the fleet, at most. */
  paceMs?: number;
};

/** `ENDED`: it was retired or revoked itself. */
export type RolloverOutcome = 'REPLACED' | 'ENDED';
/** `readyInMs` is 0 when nothing is waited for any more, `switched` says that it has taken over. */
export type RolloverStanding = { waiting: number; readyInMs: number; switched: boolean };

export const rolloverAuthorityId = (authorityId: string) => `rollover-authority/${authorityId}`;

const { tellOfRoot, countReplaceable } = proxyActivities<Activities>(howeverLongItTakes);
const { switchAuthority, finishRollover } = proxyLocalActivities<Activities>(untilItIsDone);

/** A history stays short: the next run begins where the rows say. */
const looksMax = 100;

/**
 * One issuing authority takes over from the others. Devices are told of its root first, and nobody shows a certificate under
 * it before they have acknowledged, or their time is over. Then, from one certificate to the next, it issues and the others
 * are retired; what lives under those is rotated at the pace of the policies, and when nothing does any more, it is over.
 */
export async function rolloverAuthority(request: RolloverAuthority): Promise<RolloverOutcome> {
  const { authorityId, paceMs = 5 * 60_000 } = request;
  let looks = 0;
  for (;;) {
    const { switched, readyInMs, waiting } = await tellOfRoot({ authorityId });
    if (switched || readyInMs <= 0) break;
    await look('TELLING', `${waiting} devices to acknowledge its root`, Math.min(readyInMs, paceMs));
  }
  if (!(await switchAuthority({ authorityId }))) return end('ENDED');
  for (;;) {
    const { left } = await countReplaceable();
    if (left === 0) return end('REPLACED');
    await look('REPLACING', `${left} certificates of its predecessors to be replaced`, paceMs);
  }

  async function look(status: string, waitingFor: string, withinMs: number): Promise<void> {
    display({ details: `Authority ${authorityId}: waiting for ${waitingFor}.`, status, waitingFor });
    looks += 1;
    await sleep(withinMs, { summary: waitingFor });
    if (looks >= looksMax) await continueAsNew<typeof rolloverAuthority>(request);
  }

  async function end(outcome: RolloverOutcome): Promise<RolloverOutcome> {
    await finishRollover({ authorityId, outcome });
    display({ details: outcomes[outcome], status: outcome, waitingFor: null });
    return outcome;
  }
}

const outcomes = {
  REPLACED: 'It issues, and nothing lives under its predecessors any more. A root without authorities can be retired.',
  ENDED: 'It was retired or revoked itself: another issues.',
};
