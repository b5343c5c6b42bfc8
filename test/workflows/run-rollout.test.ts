import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { runRollout, runRolloutId, rolloutProgressed } from '../../workflows/run-rollout.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet } from '../support/gateway.ts';
import { recordHistory } from '../support/histories.ts';
import { startLifecycle, type LifecycleRig } from '../support/lifecycle.ts';
import { countVerdicts, makeDevices, makeRelease, makeRollout, plainPlan, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
let lifecycle: LifecycleRig;
beforeAll(async () => {
  rig = await startRollouts();
  lifecycle = await startLifecycle(await createFleet(rig.db));
});
beforeEach(() => rig.reset());
afterAll(async () => {
  await lifecycle?.[Symbol.asyncDispose]();
  await rig?.[Symbol.asyncDispose]();
});

const start = (rolloutId: string) =>
  lifecycle.client.workflow.start(runRollout, {
    workflowId: runRolloutId(rolloutId),
    taskQueue: lifecycle.taskQueue,
    args: [{ rolloutId }],
  });

/** By what the Temporal UI filters; the server shows it a moment after the workflow has said it. */
async function shownOf(workflow: Awaited<ReturnType<typeof start>>): Promise<Record<string, unknown>> {
  const { typedSearchAttributes } = await workflow.describe();
  return Object.fromEntries(typedSearchAttributes.getAll().map(({ key, value }) => [key.name, value]));
}

type Plan = NonNullable<Parameters<typeof makeRollout>[1]>['plan'];

async function begin(count: number, plan: Plan = {}) {
  await makeDevices(rig.db, count, { version: '1.0.0' });
  await makeRelease(rig.db, '1.0.0');
  const id = await makeRollout(rig.db, { releaseId: await makeRelease(rig.db, '2.0.0'), plan });
  const workflow = await start(id);
  await eventually(async () => (await rig.crowd.busy()).length > 0);
  return { id, workflow };
}

test('a rollout enlists, tells its waves one after the other, and ends with its last device', async () => {
  const { id, workflow } = await begin(10, { waves: [{ count: 2 }, {}] });
  for (const size of [2, 8]) {
    await eventually(async () => (await rig.crowd.busy()).length === size);
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    await workflow.signal(rolloutProgressed, {});
  }
  expect(await workflow.result()).toBe('FINISHED');
  expect(await countVerdicts(rig.db, id)).toEqual({ SUCCEEDED: 10 });
  await recordHistory(workflow, 'runRollout-finished');
});

test('one that breaks its limit goes back by itself, and says so', async () => {
  const { workflow } = await begin(6, {
    waves: [{ count: 3 }, {}],
    limits: [{ kind: 'FAILED', count: 1, judgedMin: 0, then: 'undo' }],
  });
  const [bad = '', ...good] = await rig.crowd.busy();
  await rig.crowd.succeed(good, '2.0.0');
  await rig.crowd.end([bad], 'FAILED');
  await workflow.signal(rolloutProgressed, {});
  await eventually(async () => (await rig.crowd.busy()).length === 2);
  const undoing = { LonghaulStatus: 'UNDOING', LonghaulWave: '1 of 2', LonghaulRelease: 'pump 2.0.0' };
  await eventually(async () => expect(await shownOf(workflow)).toMatchObject(undoing));
  await rig.crowd.succeed(await rig.crowd.busy(), '1.0.0');
  await workflow.signal(rolloutProgressed, {});
  expect(await workflow.result()).toBe('UNDONE');
  await recordHistory(workflow, 'runRollout-undone');
});

test('its history grows with time and not with devices: a wake and no more for a thousand reports', async () => {
  const lengths: number[] = [];
  for (const count of [100, 1_000]) {
    await rig.reset();
    const { workflow } = await begin(count, { pace: { inFlightMax: count } });
    await eventually(async () => (await rig.crowd.busy()).length === count, { withinMs: 20_000 });
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    await workflow.signal(rolloutProgressed, {});
    expect(await workflow.result()).toBe('FINISHED');
    lengths.push((await workflow.fetchHistory()).events?.length ?? 0);
  }
  const [few = 0, many = 0] = lengths;
  expect(many).toBeLessThanOrEqual(few + 10);
}, 60_000);

test('it wakes at its next deadline by itself, and a paused one waits for its operator', async () => {
  const { id, workflow } = await begin(2, { timers: { ...plainPlan.timers, startWithinSeconds: 1 } });
  await eventually(async () => (await countVerdicts(rig.db, id))['TIMED_OUT'] === 2, { withinMs: 20_000 });
  const details = await workflow.describe();
  expect(details.status.name).toBe('RUNNING');
  await eventually(async () => Object.values(await shownOf(workflow)).includes('an operator to resume it'));
  await workflow.terminate();
});

test('it continues as another run before its history is long, and loses no poke meanwhile', async () => {
  const { workflow } = await begin(3);
  const first = (await workflow.describe()).runId;
  let pokes = 0;
  await eventually(
    async () => {
      await Promise.all(Array.from({ length: 10 }, () => workflow.signal(rolloutProgressed, {})));
      pokes += 10;
      return (await workflow.describe()).runId !== first;
    },
    { withinMs: 50_000 },
  );
  expect(pokes).toBeGreaterThan(50);
  await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
  await workflow.signal(rolloutProgressed, {});
  expect(await workflow.result()).toBe('FINISHED');
}, 60_000);
