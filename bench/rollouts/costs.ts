import { setTimeout as pause } from 'node:timers/promises';
import { cpuSecondsOf, residentMibOf } from '../processes.ts';
import { judge, median, ratioOf, short, spread, type Pairs, type Row } from '../measure.ts';
import { begin, conduct, stopAll } from './conduct.ts';
import { deleteCrowd, makeAbsent, makeCrowd } from './fleet.ts';
import type { RolloutRig } from './rig.ts';

const absent = 'absent-';
const offline = 'offline-';
/** What a process does once more after something, or needs for a moment only, is over by then. */
const settleMs = 4_000;

/** Of all processes together, with Postgres and Temporal. */
async function cpuSeconds({ parts }: RolloutRig): Promise<number> {
  const pids = Object.values(await parts.pids());
  const each = await Promise.all(pids.map(cpuSecondsOf));
  return each.reduce((sum, one) => sum + one, 0);
}

/** What a device costs when ten times as many are registered as are there. */
export async function registered(rig: RolloutRig): Promise<Row[]> {
  const online = rig.size(10_000);
  const others = online * 9;
  await rig.gather(online);
  const pairs: Pairs = { product: [], baseline: [] };
  const rounds = 3;
  for (let round = 0; round <= rounds; round++) {
    const alone = await costPerDevice(rig, online);
    await makeCrowd(rig.db, { prefix: absent, first: 0, end: others });
    await makeAbsent(rig.db, absent);
    const among = await costPerDevice(rig, online);
    await deleteCrowd(rig.db, absent);
    if (round === 0) continue;
    pairs.baseline.push(alone);
    pairs.product.push(among);
  }
  const ratio = ratioOf(pairs);
  return [
    {
      what: `CPU per device, ${online} online of ${online + others} registered`,
      figure: `${spread(pairs.product)} ms`,
      baseline: `${spread(pairs.baseline)} ms, of ${online}`,
      ratio: ratio.toPrecision(3),
      must: '≤ 1.3',
      aim: '≤ 1.1',
      verdict: judge(ratio, { must: 1.3, aim: 1.1 }),
    },
  ];
}

async function costPerDevice(rig: RolloutRig, count: number): Promise<number> {
  await pause(settleMs);
  const before = await cpuSeconds(rig);
  await conduct(rig, { behaviour: { reports: 3 } });
  await pause(settleMs);
  return (((await cpuSeconds(rig)) - before) / count) * 1_000;
}

const speed = 60;
const hourMs = 3_600_000 / speed;

/** Devices that are told, are not there, time out every quarter of an hour and are told again: for an hour of this clock. */
export async function waiting(rig: RolloutRig): Promise<Row[]> {
  const count = rig.size(5_000);
  await makeCrowd(rig.db, { prefix: offline, first: 0, end: count });
  await makeAbsent(rig.db, offline);
  await rig.restart(['bench/lifecycle.ts', String(speed)]);
  const pairs: Pairs = { product: [], baseline: [] };
  for (let round = 0; round < 2; round++) {
    await pause(settleMs);
    pairs.baseline.push(await costOfTheHour(rig));
    const begun = await begin(rig, {
      targets: { filter: `attributes.crowd==${offline}`, continuous: true },
      pace: { inFlightMax: count },
      timers: { startWithinSeconds: 900 },
      retries: { max: 9, backoffSeconds: 60, kinds: ['TIMED_OUT'] },
    });
    pairs.product.push(await costOfTheHour(rig));
    await checkTries(rig, begun.id);
    await stopAll(rig, begun);
  }
  const above = pairs.product.map((figure, round) => figure - (pairs.baseline[round] ?? Number.NaN));
  return [
    {
      what: `${count} offline targets waiting an hour, told again four times`,
      figure: `${spread(above)} CPU-s above idle`,
      baseline: `${short(median(pairs.baseline))} CPU-s idle in ${hourMs / 1_000} s`,
      ratio: '–',
      must: '≤ 60 CPU-s',
      aim: '≤ 10 CPU-s',
      verdict: judge(median(above), { must: 60, aim: 10 }),
    },
  ];
}

async function costOfTheHour(rig: RolloutRig): Promise<number> {
  const before = await cpuSeconds(rig);
  await pause(hourMs);
  return (await cpuSeconds(rig)) - before;
}

async function checkTries({ db }: RolloutRig, rolloutId: string): Promise<void> {
  const [row] = await db.$client<{ tries: number }[]>`
    select min(attempt)::int as tries from rollout_targets where rollout_id = ${rolloutId}`;
  if ((row?.tries ?? 0) < 3) throw new Error(`the devices were told ${row?.tries} times in the hour`);
}

/** Resident memory of the product's own processes, after a rollout went through all who are connected. */
export async function footprint(rig: RolloutRig): Promise<Row[]> {
  const connected = rig.size(10_000);
  const others = connected * 9;
  await rig.restart();
  await pause(settleMs);
  const empty = await residentMib(rig);
  await makeCrowd(rig.db, { prefix: absent, first: 0, end: others });
  await makeAbsent(rig.db, absent);
  await rig.gather(connected);
  await pause(settleMs);
  const idle = await residentMib(rig);
  await conduct(rig, { behaviour: { reports: 3 } });
  await pause(settleMs);
  const after = await residentMib(rig);
  return [
    {
      what: `memory of gateway + files + worker + API, ${connected} connected without TLS of ${connected + others}`,
      figure: `${short(after)} MiB (${short(idle)} before a rollout)`,
      baseline: `${short(empty)} MiB`,
      ratio: (after / empty).toPrecision(2),
      must: '≤ 800 MiB',
      aim: '≤ 500 MiB',
      verdict: judge(after, { must: 800, aim: 500 }),
    },
  ];
}

async function residentMib({ parts }: RolloutRig): Promise<number> {
  const { gateway, files, lifecycle, api } = await parts.pids();
  const sizes = await Promise.all([gateway, files, lifecycle, api].map(residentMibOf));
  return sizes.reduce((sum, size) => sum + size, 0);
}
