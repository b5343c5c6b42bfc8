import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { decide, type Standing } from '../../activities/rollout-decisions.ts';
import { countVerdicts, decisionsOf, makeDevices, makeRollout, plainPlan, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
beforeAll(async () => void (rig = await startRollouts()));
beforeEach(() => rig.reset());
afterAll(() => rig[Symbol.asyncDispose]());

const lenient = { ...plainPlan.gate, succeededPercent: 0 };

describe('in the middle', () => {
  test('a device that is blocked or gone has its verdict, and its execution is removed', async () => {
    const { id, devices, review } = await rig.begin(3, { gate: lenient, pace: { inFlightMax: 2 } });
    const busy = await rig.crowd.busy();
    await rig.db.execute(sql`update devices set state = 'BLOCKED' where id = ${busy[0] ?? ''}`);
    await rig.db.execute(sql`delete from devices where id = ${busy[1] ?? ''}`);
    const last = devices.find((device) => !busy.includes(device)) ?? '';
    await rig.db.execute(sql`update devices set state = 'BLOCKED' where id = ${last}`);
    expect((await review()).status).toBe('FINISHED');
    expect(await countVerdicts(rig.db, id)).toEqual({ REMOVED: 2, SKIPPED: 1 });
  });

  test('a release that is revoked stops its rollout', async () => {
    const { id, releaseId, review } = await rig.begin(6, { pace: { inFlightMax: 2 } });
    await rig.db.execute(sql`update releases set revoked_at = now() where id = ${releaseId}`);
    expect((await review()).status).toBe('STOPPED');
    expect(await countVerdicts(rig.db, id)).toEqual({ CANCELED: 6 });
    expect((await decisionsOf(rig.db, id)).at(-2)).toEqual({ kind: 'stopping', words: 'The release was revoked.' });
  });

  test('a device that comes to match joins a continuous rollout, under the same cap, though a group of it is gone', async () => {
    const targets = { filter: 'name==device-*', groups: ['gone'], continuous: true };
    await rig.db.execute(sql`insert into groups (id, name) values (gen_random_uuid(), 'gone')`);
    const { id, review } = await rig.begin(2, { targets, pace: { inFlightMax: 3 } });
    await rig.db.execute(sql`delete from groups`);
    await makeDevices(rig.db, 4, { prefix: 'device-late', version: '1.0.0' });
    rig.ledger.advance(31_000);
    await review();
    expect(await countVerdicts(rig.db, id)).toEqual({ IN_FLIGHT: 3, SCHEDULED: 3 });
  });

  test('a rollout whose group is deleted before it is enlisted is over, and says why', async () => {
    const id = await makeRollout(rig.db, { plan: { targets: { groups: ['gone'], continuous: false } } });
    await rig.ledger.enlist(id);
    expect((await rig.ledger.review(id)).status).toBe('STOPPED');
    expect(await decisionsOf(rig.db, id)).toEqual([
      { kind: 'stopped', words: 'Its targets cannot be found: there is no group gone.' },
    ]);
  });

  test('devices whose executions were taken back are told so', async () => {
    const { id, devices, review } = await rig.begin(2);
    await rig.db.execute(sql`update rollouts set state = 'STOPPING' where id = ${id}`);
    const told = rig.ledger.told.length;
    await review();
    expect(rig.ledger.told.slice(told).toSorted()).toEqual(devices.toSorted());
  });

  test('two rollouts on the same devices each tell them, and the one of higher priority is the head', async () => {
    const { devices } = await rig.begin(2);
    const urgent = await makeRollout(rig.db, { plan: { priority: 5 } });
    await rig.ledger.enlist(urgent);
    await rig.ledger.review(urgent);
    const heads = await rig.db.execute<{ rollout: string }>(sql`
      select distinct on (e.device_id) j.rollout_id as rollout from executions e join jobs j on j.id = e.job_id
      where e.ended_at is null order by e.device_id, e.priority desc, e.queued_at`);
    expect(heads.map(({ rollout }) => rollout)).toEqual(devices.map(() => urgent));
    const notices = await rig.db.execute<{ head: boolean }>(sql`select head from job_notices`);
    expect(notices.map(({ head }) => head)).toEqual([true, true]);
  });

  test('what a lower priority queues is no new head', async () => {
    await rig.begin(1);
    await rig.db.execute(sql`delete from job_notices`);
    const later = await makeRollout(rig.db, { plan: { priority: -1 } });
    await rig.ledger.enlist(later);
    await rig.ledger.review(later);
    expect([...(await rig.db.execute(sql`select head from job_notices`))]).toEqual([{ head: false }]);
  });

  test('every decision can be made again from what it rests on', async () => {
    const { id, review } = await rig.begin(6, {
      waves: [{ count: 2 }, {}],
      limits: [{ kind: 'FAILED', count: 1, judgedMin: 0, then: 'undo' }],
    });
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    await review();
    const [bad = '', ...good] = await rig.crowd.busy();
    await rig.crowd.end([bad], 'FAILED');
    await rig.crowd.succeed(good, '2.0.0');
    await review();
    const rows = await rig.db.execute<{ kind: string; words: string; sample: { standing: Standing } }>(sql`
      select kind, words, sample from rollout_decisions where rollout_id = ${id} order by id`);
    expect(rows.length).toBeGreaterThan(4);
    for (const { kind, words, sample } of rows) expect(decide(sample.standing)).toMatchObject({ kind, words });
  });
});
