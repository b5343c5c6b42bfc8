import { proxyLocalActivities, sleep } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { untilItIsDone } from './policies.ts';

export type DecommissionDevice = {
  /** Its row says BLOCKED already: from that moment on no gateway lets it in, and nothing new is given to it. */
  deviceId: string;
  /** Its name. */
  device: string;
  /** How long gateways that do not answer are waited for. */
  cutWithinMs?: number;
};

/** By the device's id: a name is never another's, and a workflow id has no case to fold. */
export const decommissionDeviceId = (deviceId: string) => `decommission-device/${deviceId}`;

const activities = proxyLocalActivities<Activities>(untilItIsDone);
const { revokeDevice, listRevocationsOf, probeDevice, endWork, eraseDevice } = activities;

/**
 * A device leaves the fleet for good. Its certificates are revoked, its sessions are seen to be cut, what it had to do is
 * ended, and only then, when nothing can come from it any more, is its data erased. The audit and its name stay.
 */
export async function decommissionDevice(request: DecommissionDevice): Promise<string> {
  const { deviceId, device, cutWithinMs = 10 * 60_000 } = request;
  display({ details: `${device} is blocked for good. Revoking its certificates.`, device, status: 'BLOCKED' });
  await revokeDevice({ deviceId });
  await listRevocationsOf({ deviceId });
  const unheard = await untilCut(request, cutWithinMs);
  display({ details: `${device} is cut off. Ending what it had to do, and erasing its data.`, status: 'CUT_OFF' });
  await endWork({ deviceId });
  const summary = await eraseDevice({ deviceId, device, unheard });
  display({ details: summary, status: 'DECOMMISSIONED', waitingFor: null });
  return 'DECOMMISSIONED';
}

/** Looks again and again, ever less often, until no session is left. Gives the gateways that have not confirmed by the end. */
async function untilCut({ deviceId }: DecommissionDevice, withinMs: number): Promise<string[]> {
  const deadline = Date.now() + withinMs;
  for (let pauseMs = 100; ; pauseMs = Math.min(pauseMs * 2, 30_000)) {
    const { proven, unheard, waitingFor } = await probeDevice({ deviceId });
    const leftMs = deadline - Date.now();
    if (proven || leftMs <= 0) return unheard;
    display({ details: `Waiting for ${waitingFor}.`, waitingFor });
    await sleep(Math.min(pauseMs, leftMs), { summary: waitingFor });
  }
}
