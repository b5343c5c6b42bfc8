import { judge, median, spread, type Row } from '../measure.ts';
import { conduct } from './conduct.ts';
import { eventsOfRollout } from './histories.ts';
import { prefix, type RolloutRig } from './rig.ts';

const rounds = 3;
const spreadMs = 20_000;

/** How many events more a history has when twice the devices take the same time. */
export async function histories(rig: RolloutRig): Promise<Row[]> {
  const count = rig.size(10_000);
  await rig.gather(count);
  const few: number[] = [];
  const many: number[] = [];
  for (let round = 0; round < rounds; round++) {
    few.push(await countEvents(rig, `attributes.crowd==${prefix} and attributes.half==even`));
    many.push(await countEvents(rig, `attributes.crowd==${prefix}`));
  }
  const growth = many.map((events, round) => (events / (few[round] ?? Number.NaN) - 1) * 100);
  return [
    {
      what: `history growth, ${Math.ceil(count / 2)} → ${count} devices in ${spreadMs / 1_000} s`,
      figure: `${spread(growth, (figure) => figure.toFixed(1))} %`,
      baseline: `${median(few)} → ${median(many)} events`,
      ratio: '–',
      must: '≤ +10 %',
      aim: '≤ +2 %',
      verdict: judge(median(growth), { must: 10, aim: 2 }),
    },
  ];
}

async function countEvents(rig: RolloutRig, filter: string): Promise<number> {
  const { id } = await conduct(rig, {
    behaviour: { reports: 1, spreadMs },
    targets: { filter },
    pace: { inFlightMax: 100_000 },
  });
  return (await eventsOfRollout(rig.parts.temporal, id)).length;
}
