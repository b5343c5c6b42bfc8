import { judge, median, spread, type Row } from './measure.ts';
import type { Rig } from './rig.ts';

const rounds = 3;

/** As it is typed: `npm start` with its three simulated devices, on data that are there. */
export async function start(rig: Rig): Promise<Row[]> {
  const seconds: number[] = [];
  for (let round = 0; round < rounds; round++) {
    await rig.restart({ devices: 3 });
    seconds.push(rig.running.readyMs / 1_000);
  }
  return [
    {
      what: 'second `npm start` to ready',
      figure: `${spread(seconds)} s`,
      baseline: '–',
      ratio: '–',
      must: '≤ 15 s',
      aim: '≤ 6 s',
      verdict: judge(median(seconds), { must: 15, aim: 6 }),
    },
  ];
}
