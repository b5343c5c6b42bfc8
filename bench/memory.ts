import { setTimeout as pause } from 'node:timers/promises';
import { pidFileOf } from '../embedded/node-parts.ts';
import { findRecorded } from '../embedded/pid-files.ts';
import { judge, median, ratioOf, spread, type Pairs, type Row } from './measure.ts';
import { residentMibOf } from './processes.ts';
import type { Rig } from './rig.ts';

const rounds = 3;
const connections = 1_000;
/** What a process needs for a moment only is given back by then. */
const settleMs = 4_000;
/** The files' server holds no connections of MQTT. */
const parts = ['gateway', 'lifecycle', 'api'];

/** Resident memory of the three processes as `npm start` runs them; the devices are in another one. */
export async function memory(rig: Rig): Promise<Row[]> {
  const devices = await rig.devices(connections);
  const pairs: Pairs = { product: [], baseline: [] };
  for (let round = 0; round < rounds; round++) {
    await rig.restart({ devices: 0 });
    await pause(settleMs);
    pairs.baseline.push(await residentMib(rig.dataDir));
    const fleet = 'memory';
    await rig.load.run('connectFleet', { fleet, server: rig.server(), devices, subscribe: true });
    await pause(settleMs);
    pairs.product.push(await residentMib(rig.dataDir));
    await rig.load.run('disconnectFleet', { fleet });
  }
  return [
    {
      what: 'memory of gateway + worker + API, 1,000 connected',
      figure: `${spread(pairs.product)} MiB`,
      baseline: `${spread(pairs.baseline)} MiB`,
      ratio: ratioOf(pairs).toPrecision(2),
      must: '≤ 600 MiB',
      aim: '≤ 350 MiB',
      verdict: judge(median(pairs.product), { must: 600, aim: 350 }),
    },
  ];
}

async function residentMib(dataDir: string): Promise<number> {
  const sizes = await Promise.all(parts.map((part) => residentOf(pidFileOf(dataDir, part))));
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function residentOf(pidFile: string): Promise<number> {
  const pid = await findRecorded(pidFile);
  if (pid === undefined) throw new Error(`${pidFile}: it does not run`);
  return residentMibOf(pid);
}
