import { continueAsNew, proxyActivities, sleep } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { howeverLongItTakes } from './policies.ts';

export type RotateExpiring = {
  policy: string;
  /** Where to go on: after this certificate, in the order in which they are due. */
  after?: { at: string; id: string };
  /** Between two pages. */
  paceMs?: number;
  /** Of the runs that this one continues. */
  begun?: number;
};

export const rotateExpiringId = (policy: string) => `rotate-expiring/${policy}`;

const { beginDueRotations } = proxyActivities<Activities>(howeverLongItTakes);

/** A history stays short; what is left when it is over is due at the next run all the same. */
const pagesMax = 50;

/**
 * Begins the rotation of every certificate of a policy whose time has come: page after page in the order in which they are
 * due, one page a minute at most. It stops where as many are under way as the policy lets; the next run goes on. Who is begun already is passed over, so a run
 * that is repeated, or meets another, begins nothing twice.
 */
export async function rotateExpiring(request: RotateExpiring): Promise<number> {
  const { policy, paceMs = 60_000 } = request;
  let { after, begun = 0 } = request;
  for (let page = 0; page < pagesMax; page += 1) {
    const { count, next } = await beginDueRotations({ policy, ...(after && { after }) });
    begun += count;
    display({ details: `Policy ${policy}: ${begun} rotations begun.` });
    if (!next) return begun;
    after = next;
    await sleep(paceMs, { summary: 'the pace of the policy' });
  }
  return continueAsNew<typeof rotateExpiring>({ ...request, begun, ...(after && { after }) });
}
