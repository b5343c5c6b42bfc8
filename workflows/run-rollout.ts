import { continueAsNew, defineSignal, proxyActivities, proxyLocalActivities, workflowInfo } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { inbox } from './inbox.ts';
import { howeverLongItTakes, untilItIsDone } from './policies.ts';

export type RunRollout = {
  rolloutId: string;
  /** Of a run that continues another: its targets stand. */
  enlisted?: boolean;
};

/** A poke: a device has ended its execution, or an operator has changed something. What exactly stands in the rows. */
export const rolloutProgressed = defineSignal<[Record<string, never>]>('rolloutProgressed');

export const runRolloutId = (rolloutId: string) => `run-rollout/${rolloutId}`;

const { enlistRollout } = proxyActivities<Activities>(howeverLongItTakes);
const { reviewRollout } = proxyLocalActivities<Activities>(untilItIsDone);

/** A history stays short enough to be replayed in an instant. */
const eventsMax = 500;

/**
 * A job reaches many devices, in waves. Devices are told and judged in the ledger, all of them in one statement; this
 * wakes on a poke or at the next deadline, has the ledger reviewed, and sleeps. So a rollout costs time, not devices.
 * Operators change its rows and poke: what they say holds at once, whatever this is doing.
 */
export async function runRollout(request: RunRollout): Promise<string> {
  const progress = inbox(rolloutProgressed);
  const { rolloutId, enlisted } = request;
  if (!enlisted) await enlistRollout({ rolloutId });
  for (;;) {
    progress.drain();
    const { waitMs, details, waitingFor, ...standing } = await reviewRollout({ rolloutId });
    display({ details, ...standing, waitingFor: waitMs === undefined ? null : waitingFor });
    if (waitMs === undefined) return standing.status;
    if (workflowInfo().historyLength > eventsMax) await continueAsNew<typeof runRollout>({ rolloutId, enlisted: true });
    await progress.next(waitMs, waitingFor);
  }
}
