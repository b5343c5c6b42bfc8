import { setTimeout as pause } from 'node:timers/promises';
import { judge, median, short, spread, type Row } from '../measure.ts';
import { begin, inFlightMax, order } from './conduct.ts';
import type { RolloutRig } from './rig.ts';

const rounds = 6;
/** Both may still be on their way when a decision is heard of. */
const settleMs = 1_000;

/** Devices that are told of a job after its rollout was stopped: by an operator, and by a limit, in turns. */
export async function stops(rig: RolloutRig): Promise<Row[]> {
  const count = rig.size(10_000);
  const cap = rig.size(inFlightMax);
  await rig.gather(count);
  const told: number[] = [];
  const admitted: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const { id, stoppedAtMs } = await stopOne(rig, { count, cap, byLimit: round % 2 === 1 });
    await pause(settleMs);
    const observed = await rig.load.run('observe', { crowd: 'devices' });
    told.push(observed.told.filter((atMs) => atMs > stoppedAtMs).length);
    admitted.push(await countAdmittedLate(rig, id));
  }
  return [
    {
      what: `devices told after a stop, ${cap} in flight of ${count}`,
      figure: spread(told, String),
      baseline: '–',
      ratio: `${short(Math.max(...admitted))} admitted`,
      must: `≤ ${cap}`,
      aim: '0',
      verdict: judge(Math.max(...told), { must: cap, aim: 0 }),
    },
  ];
}

async function stopOne(rig: RolloutRig, { count, cap, byLimit }: { count: number; cap: number; byLimit: boolean }) {
  const failing = byLimit ? 0.05 : 0;
  await rig.load.run('behave', { crowd: 'devices', behaviour: { reports: 2, spreadMs: 500, failing } });
  const limits = byLimit ? [{ kind: 'FAILED', count: Math.ceil(count / 60), then: 'stop' }] : [];
  const begun = await begin(rig, { limits, pace: { inFlightMax: cap } });
  while (!byLimit && (await rig.load.run('observe', { crowd: 'devices' })).ended.length < count / 3) await pause(20);
  if (!byLimit) await order(rig, begun, 'stop');
  const { atMs: stoppedAtMs } = await rig.decisions.next(begun.id, 'stopping');
  await rig.decisions.next(begun.id, 'stopped');
  return { ...begun, stoppedAtMs };
}

/** By the rows: whom a review admitted after the decision. */
async function countAdmittedLate({ db }: RolloutRig, rolloutId: string): Promise<number> {
  const [row] = await db.$client<{ count: number }[]>`
    select count(*)::int as count from rollout_targets t
    join rollout_decisions d on d.rollout_id = t.rollout_id and d.kind = 'stopping'
    where t.rollout_id = ${rolloutId} and t.told_at > d.at`;
  return row?.count ?? 0;
}

const starts = 6;

/** From the request to the API until the first of many devices hears of it. */
export async function beginnings(rig: RolloutRig): Promise<Row[]> {
  const count = rig.size(10_000);
  await rig.gather(count);
  const seconds: number[] = [];
  for (let round = 0; round <= starts; round++) {
    await rig.load.run('behave', { crowd: 'devices', behaviour: { reports: 1 } });
    const { id, askedAtMs } = await begin(rig);
    await rig.decisions.next(id, 'finished');
    const { told } = await rig.load.run('observe', { crowd: 'devices' });
    if (round > 0) seconds.push((Math.min(...told) - askedAtMs) / 1_000);
  }
  return [
    {
      what: `rollout over ${count}: start → first device told`,
      figure: `${spread(seconds)} s`,
      baseline: '–',
      ratio: '–',
      must: '≤ 2 s',
      aim: '≤ 0.5 s',
      verdict: judge(median(seconds), { must: 2, aim: 0.5 }),
    },
  ];
}
