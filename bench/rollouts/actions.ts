import { openHelper, type Helper } from '../jobs.ts';
import { interleave, judge, median, rateRow, short, spread, type Row } from '../measure.ts';
import type { ReferenceJobs } from '../reference/process.ts';
import { updateDeviceId } from '../reference/workflow.ts';
import { conduct, some } from './conduct.ts';
import { countActions, eventsOf, eventsOfRollout } from './histories.ts';
import { nameOf, type RolloutRig } from './rig.ts';

const rounds = 2;

/** Against a rollout with a workflow for each device, one report each. */
export async function reference(rig: RolloutRig): Promise<Row[]> {
  const count = rig.size(1_000);
  await rig.gather(count);
  await using other = await openReference(rig, count);
  const pairs = await interleave({
    rounds,
    product: async () => {
      const { seconds } = await conduct(rig, { targets: some(count), behaviour: { reports: 1 } });
      return count / seconds;
    },
    baseline: async () => count / (await other.run('rollOut', { devices: names(count) })).seconds,
  });
  await rig.others.run('disperse', { crowd: 'reference' });
  return [rateRow(`rollout against one workflow per device, ${count} devices`, pairs, { must: 20, aim: 50 })];
}

/** What Temporal is asked to do for each device. */
export async function actions(rig: RolloutRig): Promise<Row[]> {
  const count = rig.size(10_000);
  await rig.gather(count);
  const ours: number[] = [];
  for (let round = 0; round < 3; round++) {
    const { id } = await conduct(rig, { behaviour: { reports: 3 } });
    ours.push(countActions(await eventsOfRollout(rig.parts.temporal, id)) / count);
  }
  const theirs = await countReference(rig, Math.min(count, 50));
  return [
    {
      what: `Temporal actions per device, ${count} devices`,
      figure: spread(ours),
      baseline: short(theirs),
      ratio: (median(ours) / theirs).toPrecision(2),
      must: '≤ 0.02',
      aim: '≤ 0.005',
      verdict: judge(median(ours), { must: 0.02, aim: 0.005 }),
    },
  ];
}

async function countReference(rig: RolloutRig, count: number): Promise<number> {
  await using other = await openReference(rig, count);
  await other.run('rollOut', { devices: names(count) });
  const { temporal } = rig.parts;
  const counts = await Promise.all(
    names(count).map(async (name) => countActions(await eventsOf(temporal, updateDeviceId(name)))),
  );
  await rig.others.run('disperse', { crowd: 'reference' });
  return counts.reduce((sum, one) => sum + one, 0) / count;
}

const names = (count: number) => Array.from({ length: count }, (_, index) => nameOf(index));

/** Its worker and broker in a process of their own, and devices that are connected to it. */
async function openReference({ parts, others }: RolloutRig, count: number): Promise<Helper<ReferenceJobs>> {
  const { temporal, temporalAddress: address, databaseUrl, plain } = parts;
  const { namespace } = temporal.options;
  const helper = await openHelper<ReferenceJobs>(import.meta.resolve('../reference/process.ts'));
  const port = await helper.run('start', { address, namespace, databaseUrl });
  const members = names(count).map((name) => ({ name }));
  await others.run('gather', { crowd: 'reference', server: { ...plain, port }, members });
  return helper;
}
