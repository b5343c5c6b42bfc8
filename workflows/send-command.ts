import { continueAsNew, defineSignal, proxyLocalActivities, workflowInfo } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { inbox } from './inbox.ts';
import { untilItIsDone } from './policies.ts';

export type SendCommand = {
  commandId: string;
  /** The device's name, when there is one only. */
  device?: string;
};

/** A poke: some target of the command has ended, or was taken back. What exactly stands in the rows. */
export const commandProgressed = defineSignal<[Record<string, never>]>('commandProgressed');

export const sendCommandId = (commandId: string) => `send-command/${commandId}`;

const { reviewCommand } = proxyLocalActivities<Activities>(untilItIsDone);

/**
 * One request to one device or a thousand. The gateway tells the devices and records what they answer; this waits until
 * every target has ended, and at the deadline ends those that have not. A device that is away for days costs a row here
 * and one timer, no polling.
 */
export async function sendCommand(request: SendCommand): Promise<string> {
  const progress = inbox(commandProgressed);
  for (;;) {
    progress.drain();
    const { open, closesAtMs, summary } = await reviewCommand({ commandId: request.commandId });
    display({ details: summary, ...(open === 0 && { status: 'FINISHED', waitingFor: null }) });
    if (open === 0) return summary;
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof sendCommand>(request);
    await progress.next(closesAtMs - Date.now(), `${open} still to answer`);
  }
}
