import type { Behaviour } from '../load/crowds.ts';
import type { Made } from './decisions-made.ts';
import { nameOf, prefix, type RolloutRig } from './rig.ts';

/** What of a rollout's request differs from the usual one. */
export type Asked = {
  targets?: { devices?: string[]; filter?: string; continuous?: boolean };
  waves?: object[];
  limits?: object[];
  pace?: { inFlightMax: number };
  timers?: object;
  retries?: object;
};

export type Begun = { id: string; askedAtMs: number };

export const inFlightMax = 1_000;
export const everybody = { filter: `attributes.crowd==${prefix} and connected==true` };
export const some = (count: number) => ({ devices: Array.from({ length: count }, (_, index) => nameOf(index)) });

/** Asks the API for a rollout of a small document, in one wave unless it is told otherwise. */
export async function begin(rig: RolloutRig, asked: Asked = {}): Promise<Begun> {
  const askedAtMs = performance.timeOrigin + performance.now();
  const job = { document: { operation: 'calibrate', channel: 3 } };
  const gate = { succeededPercent: 0, soakSeconds: 0 };
  const body = { name: 'bench', job, targets: everybody, gate, pace: { inFlightMax }, ...asked };
  // The contract's answer to a rollout that was accepted.
  const { id } = (await post(rig, '/v1/rollouts', body)) as { id: string };
  return { id, askedAtMs };
}

export const order = (rig: RolloutRig, { id }: Begun, verb: string, body: object = {}) =>
  post(rig, `/v1/rollouts/${id}/${verb}`, body);

async function post({ parts }: RolloutRig, path: string, body: object): Promise<unknown> {
  const { url, token } = parts.api;
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const answer = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** A whole rollout to a crowd, from the request until its last device's verdict is committed. */
export async function conduct(
  rig: RolloutRig,
  { behaviour, crowd = 'devices', ...asked }: Asked & { behaviour: Behaviour; crowd?: string },
): Promise<Begun & { finished: Made; seconds: number }> {
  await rig.load.run('behave', { crowd, behaviour });
  const begun = await begin(rig, asked);
  const finished = await rig.decisions.next(begun.id, 'finished');
  const { refused } = await rig.load.run('observe', { crowd });
  if (refused > 0) throw new Error(`${refused} reports were refused`);
  return { ...begun, finished, seconds: (finished.atMs - begun.askedAtMs) / 1_000 };
}

/** Ends it early, also on devices that have begun, and waits until it has ended. */
export async function stopAll(rig: RolloutRig, begun: Begun): Promise<void> {
  await order(rig, begun, 'stop', { inProgress: 'cancel' });
  await rig.decisions.next(begun.id, 'stopped');
}
