import { continueAsNew, proxyActivities, workflowInfo } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { whileAFileIsRead } from './policies.ts';

export type RegisterDevices = {
  /** Its file is here, whole. */
  registrationId: string;
};

/** How far the file was read, and what came of it so far. */
export type FileRead = { state: string; line: number; registered: number; refused: number };

export const registerDevicesId = (registrationId: string) => `register-devices/${registrationId}`;

const { registerLines } = proxyActivities<Activities>(whileAFileIsRead);

/** A history stays short enough to be replayed in an instant. */
const eventsMax = 500;

/**
 * The devices of a file are registered ahead of their enrolment, some ten thousand lines at a time. Where reading stands is
 * in the rows, together with what was read, so this only asks for more until the file ends, or somebody has canceled it.
 */
export async function registerDevices({ registrationId }: RegisterDevices): Promise<string> {
  display({ details: 'The file is here. Reading its first lines.', status: 'RUNNING' });
  for (;;) {
    const { state, line, registered, refused } = await registerLines({ registrationId });
    const count = `${registered} devices are registered, ${refused} lines refused`;
    const isOver = state === 'FINISHED' || state === 'CANCELED';
    const details = isOver ? `${count}. The report says why.` : `${count}. Reading on from line ${line}.`;
    display({ details, status: state, waitingFor: isOver ? null : 'the rest of the file' });
    if (isOver) return state;
    if (workflowInfo().historyLength > eventsMax) await continueAsNew<typeof registerDevices>({ registrationId });
  }
}
