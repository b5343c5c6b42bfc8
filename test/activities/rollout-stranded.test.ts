import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { review as reviewIn } from '../../activities/rollout-review.ts';
import { revokeRelease } from '../../db/releases.ts';
import type { RolloutPlan } from '../../db/rollout-plan.ts';
import { outbox } from '../../db/schema.ts';
import { eventually } from '../support/eventually.ts';
import { countVerdicts, makeDevices, makeRelease, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
beforeAll(async () => void (rig = await startRollouts()));
beforeEach(() => rig.reset());
afterAll(() => rig[Symbol.asyncDispose]());

const poke = { workflowIdPrefix: 'run-rollout/', signal: 'rolloutProgressed' };
const revoke = (release: string) => revokeRelease(rig.db, 'api-key/test', release, { reason: 'worse', poke });
const pokes = () => rig.db.select({ workflowId: outbox.workflowId, name: outbox.name }).from(outbox);

/** A rollout of 2.0.0 that is to be undone: four devices ran 1.0.0 before, and two 0.9.0. */
async function toBeUndone(plan: Partial<RolloutPlan> = {}) {
  const { db, crowd } = rig;
  const old = await makeDevices(db, 2, { prefix: 'old', version: '0.9.0' });
  const oldest = await makeRelease(db, '0.9.0');
  const waves = [{ filter: 'name==old-*' }, {}];
  const { id, previous, review } = await rig.begin(4, { waves, pace: { inFlightMax: 2 }, ...plan });
  for (let busy = await crowd.busy(); busy.length > 0; busy = await crowd.busy()) {
    await crowd.succeed(busy, '2.0.0');
    await review();
  }
  expect(await countVerdicts(db, id)).toEqual({ SUCCEEDED: 6 });
  await db.execute(sql`update rollouts set state = 'UNDOING', finished_at = null where id = ${id}`);
  return { id, previous, oldest, old, review };
}

/** Of those that go back to 1.0.0, one has begun, one is told and two are not; the others come after them. */
async function undoing(plan: Partial<RolloutPlan> = {}) {
  const rollout = await toBeUndone(plan);
  await rollout.review();
  const [started = '', waiting = ''] = await rig.crowd.busy();
  await rig.crowd.start([started]);
  return { ...rollout, started, waiting };
}

describe('a release that is revoked while devices go back to it', () => {
  test('has the rollout look, though that brings another one, until it has ended', async () => {
    const { id, previous, oldest } = await undoing();
    await revoke(previous);
    expect(await pokes()).toEqual([{ workflowId: `run-rollout/${id}`, name: poke.signal }]);
    await rig.db.execute(sql`update rollouts set finished_at = now()`);
    await revoke(oldest);
    expect(await pokes()).toHaveLength(1);
  });

  test('has it look, too, when that happens as its devices are turned around', async () => {
    const { db } = rig;
    const { id, previous } = await toBeUndone();
    const [reviewed, revoking] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const turning = db.transaction(async (tx) => {
      await reviewIn(tx, id);
      reviewed.resolve();
      await revoking.promise;
    });
    await reviewed.promise;
    const revoked = revoke(previous);
    await eventually(async () => {
      const waiting = await db.execute(sql`
        select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`);
      expect(waiting).toHaveLength(1);
    });
    revoking.resolve();
    await Promise.all([turning, revoked]);
    expect(await pokes()).toEqual([{ workflowId: `run-rollout/${id}`, name: poke.signal }]);
  });

  test('is gone back to by nobody else: who has not begun cannot, and the others go their own way', async () => {
    const { id, previous, old, started, waiting, review } = await undoing();
    await revoke(previous);
    rig.ledger.told.length = 0;
    await review();
    expect(await countVerdicts(rig.db, id)).toEqual({ CANNOT_UNDO: 3, SUCCEEDED: 3 });
    expect(rig.ledger.told).toContain(waiting);
    const busy = await rig.crowd.busy();
    expect(busy).toHaveLength(2);
    expect(busy).toContain(started);
    expect(busy).not.toContain(waiting);
    const ends = await rig.db.execute(sql`
      select t.reason, e.status, count(*)::int as devices from rollout_targets t
      left join executions e on e.job_id = t.job_id and e.device_id = t.device_id
      where t.undo_verdict = 'CANNOT_UNDO' group by 1, 2 order by 3`);
    const reason = 'it cannot go back to 1.0.0: that release was revoked';
    expect([...ends]).toEqual([
      { reason, status: 'CANCELED', devices: 1 },
      { reason, status: null, devices: 2 },
    ]);

    await rig.crowd.succeed([started], '1.0.0');
    await review();
    await rig.crowd.succeed(old, '0.9.0');
    expect((await review()).status).toBe('UNDONE');
    const waves = await rig.db.execute(sql`
      select number, undo_targets as targets, undo_verdicts as verdicts from waves order by number`);
    expect([...waves]).toEqual([
      { number: 1, targets: 2, verdicts: { UNDONE: 2 } },
      { number: 2, targets: 4, verdicts: { CANNOT_UNDO: 3, UNDONE: 1 } },
    ]);
  });

  test('is taken back from who has begun, too, where the plan stops those', async () => {
    const { id, previous, old, started, review } = await undoing({ stopping: 'all' });
    await revoke(previous);
    rig.ledger.told.length = 0;
    await review();
    expect(rig.ledger.told).toContain(started);
    await rig.crowd.succeed(old, '0.9.0');
    expect((await review()).status).toBe('UNDONE');
    expect(await countVerdicts(rig.db, id)).toEqual({ CANNOT_UNDO: 4, UNDONE: 2 });
  });

  test('changes nothing for who is back, nor for who goes back to another one', async () => {
    const { id, oldest, review } = await undoing();
    await rig.crowd.succeed(await rig.crowd.busy(), '1.0.0');
    await review();
    await rig.crowd.succeed(await rig.crowd.busy(), '1.0.0');
    await revoke(oldest);
    await review();
    expect((await review()).status).toBe('UNDONE');
    expect(await countVerdicts(rig.db, id)).toEqual({ UNDONE: 4, CANNOT_UNDO: 2 });
  });
});
