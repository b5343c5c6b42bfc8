import { condition, defineSignal, executeChild, proxyActivities, setHandler } from '@temporalio/workflow';

export type ReferenceActivities = {
  tell(device: string): Promise<void>;
  judge(verdict: { device: string; status: string }): Promise<void>;
};

export const deviceReported = defineSignal<[string]>('deviceReported');
export const updateDeviceId = (device: string) => `update-device/${device}`;

const { tell, judge } = proxyActivities<ReferenceActivities>({ startToCloseTimeout: '1 minute' });

/** The rollout as most would write it: a workflow for each device. */
export async function referenceRollout(devices: string[]): Promise<void> {
  await Promise.all(
    devices.map((device) => executeChild(updateDevice, { workflowId: updateDeviceId(device), args: [device] })),
  );
}

/** Five actions: its start, the timer of its deadline, telling, the device's signal, the verdict. */
export async function updateDevice(device: string): Promise<void> {
  let reported: string | undefined;
  setHandler(deviceReported, (status) => void (reported = status));
  const answer = condition(() => reported !== undefined, '1 hour');
  await tell(device);
  await answer;
  await judge({ device, status: reported ?? 'TIMED_OUT' });
}
