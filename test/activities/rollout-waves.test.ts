import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { executions } from '../../db/rollout-schema.ts';
import { countVerdicts, decisionsOf, makeDevices, plainPlan, runs, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
beforeAll(async () => void (rig = await startRollouts()));
beforeEach(() => rig.reset());
afterAll(() => rig[Symbol.asyncDispose]());

const minuteMs = 60_000;

describe('waves', () => {
  test('take devices by count, percent and rest, in an order that is not that of their creation', async () => {
    const { id, devices } = await rig.begin(40, { waves: [{ count: 4 }, { percent: 25 }, {}] });
    const rows = await rig.db.execute<{ wave: number; ids: string[] }>(sql`
      select wave, array_agg(device_id order by device_id) as ids from rollout_targets
      where rollout_id = ${id} group by wave order by wave`);
    expect(rows.map(({ ids }) => ids.length)).toEqual([4, 10, 26]);
    expect(rows[0]?.ids).not.toEqual(devices.slice(0, 4));
  });

  test('take devices by filter first, and a device is in one wave only', async () => {
    const { db } = rig;
    await makeDevices(db, 3, { prefix: 'lab' });
    const { id } = await rig.begin(5, { waves: [{ filter: 'name==lab-*' }, { filter: 'name==*' }, {}] });
    const rows = await db.execute(sql`
      select wave, count(*)::int as count from rollout_targets where rollout_id = ${id} group by wave order by wave`);
    expect([...rows]).toEqual([
      { wave: 1, count: 3 },
      { wave: 2, count: 5 },
    ]);
  });

  test('begin one after the other, when the share of the one before has succeeded', async () => {
    const { review } = await rig.begin(20, {
      waves: [{ count: 4, gate: { succeededPercent: 75 } }, { count: 6 }, {}],
    });
    const [first, second, third, fourth] = await rig.crowd.busy();
    expect(await rig.crowd.busyWaves()).toEqual([1]);
    await rig.crowd.succeed([first ?? '', second ?? ''], '2.0.0');
    await review();
    expect(await rig.crowd.busyWaves()).toEqual([1]);
    await rig.crowd.succeed([third ?? ''], '2.0.0');
    await review();
    expect(await rig.crowd.busy()).toHaveLength(7);
    expect(await rig.crowd.busy()).toContain(fourth);
  });

  test('that nobody is in pass at once, and a rollout without devices finishes', async () => {
    const { reviewed } = await rig.begin(0, { waves: [{ count: 4 }, {}] });
    expect(reviewed).toMatchObject({ status: 'FINISHED', waitMs: undefined });
  });

  test('are enlisted once, however often it is tried', async () => {
    const { id } = await rig.begin(8);
    await rig.ledger.enlist(id);
    expect(await countVerdicts(rig.db, id)).toEqual({ IN_FLIGHT: 8 });
  });
});

describe('the pace', () => {
  test('is bounded by the cap on devices in flight, and whoever ends makes room for another', async () => {
    const { review } = await rig.begin(10, { pace: { inFlightMax: 3 } });
    expect(await rig.crowd.busy()).toHaveLength(3);
    await rig.crowd.succeed((await rig.crowd.busy()).slice(0, 2), '2.0.0');
    await review();
    expect(await rig.crowd.busy()).toHaveLength(3);
    expect(rig.ledger.told).toHaveLength(5);
  });

  test('is bounded by the rate per minute, which grows with successes up to its limit', async () => {
    const growth = { factor: 2, afterSuccesses: 3, perMinuteMax: 8 };
    const { reviewed, review } = await rig.begin(40, { pace: { inFlightMax: 100, perMinute: 3, growth } });
    const perMinute: number[] = [rig.ledger.told.length];
    expect(reviewed.waitMs).toBeLessThanOrEqual(minuteMs);
    for (let minute = 0; minute < 3; minute += 1) {
      await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
      await review();
      const before = rig.ledger.told.length;
      rig.ledger.advance(minuteMs);
      await review();
      perMinute.push(rig.ledger.told.length - before);
    }
    expect(perMinute).toEqual([3, 6, 8, 8]);
  });
});

describe('a gate', () => {
  test('soaks: the next wave waits until its time is over, and passes when all are still there', async () => {
    const { review } = await rig.begin(6, { waves: [{ count: 2 }, {}], gate: { ...plainPlan.gate, soakSeconds: 600 } });
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    const soaking = await review();
    expect(soaking.waitMs).toBeGreaterThan(599_000);
    rig.ledger.advance(590_000);
    await review();
    expect(await rig.crowd.busy()).toEqual([]);
    rig.ledger.advance(10_000);
    await review();
    expect(await rig.crowd.busyWaves()).toEqual([2]);
  });

  test('takes a success back when the device returns to its old version during the soak', async () => {
    const { id, review } = await rig.begin(6, {
      waves: [{ count: 2 }, {}],
      gate: { ...plainPlan.gate, soakSeconds: 600, otherwise: 'stop' },
    });
    const updated = await rig.crowd.busy();
    await rig.crowd.succeed(updated, '2.0.0');
    await review();
    await runs(rig.db, updated.slice(0, 1), '1.0.0');
    expect((await review()).status).toBe('STOPPED');
    expect(await countVerdicts(rig.db, id)).toEqual({ SUCCEEDED: 1, REVERTED: 1, CANCELED: 4 });
    expect((await decisionsOf(rig.db, id)).at(-2)?.words).toBe(
      'Wave 1: 1 of 2 succeeded where 2 are needed (100 %), which can no longer be reached.',
    );
  });

  test('counts a device that is not connected at the end of the soak as silent', async () => {
    const { id, review } = await rig.begin(6, {
      waves: [{ count: 2 }, {}],
      gate: { ...plainPlan.gate, soakSeconds: 600 },
    });
    const updated = await rig.crowd.busy();
    await rig.crowd.succeed(updated, '2.0.0');
    await review();
    await rig.crowd.connect(updated.slice(0, 1), false);
    expect((await review()).status).toBe('RUNNING');
    rig.ledger.advance(600_000);
    expect(await review()).toMatchObject({ status: 'PAUSED', pauseReason: 'gate' });
    expect(await countVerdicts(rig.db, id)).toMatchObject({ SUCCEEDED: 1, SILENT: 1, SCHEDULED: 4 });
  });

  test('waits for an operator where it is manual', async () => {
    const { id, review } = await rig.begin(6, { waves: [{ count: 2, gate: { manual: true } }, {}] });
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    expect(await review()).toMatchObject({ status: 'PAUSED', pauseReason: 'manual-gate' });
    await rig.db.execute(sql`update waves set passed_by = 'api-key/somebody' where rollout_id = ${id} and number = 1`);
    await rig.db.execute(sql`update rollouts set state = 'RUNNING', reason = null where id = ${id}`);
    await review();
    expect(await rig.crowd.busyWaves()).toEqual([2]);
  });

  test('does not take the word of a device that reports no new version', async () => {
    const { id, review } = await rig.begin(3);
    await rig.crowd.succeed(await rig.crowd.busy());
    const waiting = await review();
    expect(await countVerdicts(rig.db, id)).toEqual({ IN_FLIGHT: 3 });
    expect(waiting.waitMs).toBeLessThanOrEqual(minuteMs);
    const [honest] = await rig.crowd.busy();
    expect(honest).toBeUndefined();
    rig.ledger.advance(minuteMs);
    await review();
    expect(await countVerdicts(rig.db, id)).toEqual({ REVERTED: 3 });
  });
});

describe('a limit', () => {
  test.each(['pause', 'stop', 'undo'] as const)(
    'by count is followed by %s, and nobody is told after it',
    async (then) => {
      const { review } = await rig.begin(30, {
        pace: { inFlightMax: 5 },
        limits: [{ kind: 'FAILED', count: 2, judgedMin: 0, then }],
      });
      const busy = await rig.crowd.busy();
      await rig.crowd.end(busy.slice(0, 2), 'FAILED');
      const { status } = await review();
      expect(status).toBe({ pause: 'PAUSED', stop: 'STOPPED', undo: 'UNDONE' }[then]);
      expect(await rig.db.$count(executions)).toBe(busy.length);
    },
  );

  test('by percent means nothing before enough devices are judged', async () => {
    const { id, review } = await rig.begin(20, {
      pace: { inFlightMax: 4 },
      gate: { ...plainPlan.gate, succeededPercent: 10 },
      limits: [{ kind: 'ANY', percent: 50, judgedMin: 6, then: 'pause' }],
    });
    await rig.crowd.end(await rig.crowd.busy(), 'REJECTED');
    expect((await review()).status).toBe('RUNNING');
    const next = await rig.crowd.busy();
    await rig.crowd.end(next.slice(0, 1), 'TIMED_OUT');
    await rig.crowd.succeed(next.slice(1, 3), '2.0.0');
    expect((await review()).status).toBe('PAUSED');
    expect((await decisionsOf(rig.db, id)).at(-1)?.words).toBe(
      '5 of 7 judged devices failed, timed out or rejected it, 71.4 %; the limit is 50 %.',
    );
  });

  test('that paused counts anew what comes after an operator let it go on', async () => {
    const { id, review } = await rig.begin(20, {
      pace: { inFlightMax: 4 },
      gate: { ...plainPlan.gate, succeededPercent: 10 },
      limits: [{ kind: 'FAILED', count: 2, judgedMin: 0, then: 'pause' }],
    });
    await rig.crowd.end((await rig.crowd.busy()).slice(0, 2), 'FAILED');
    await review();
    await rig.db.execute(sql`
      update rollouts set state = 'RUNNING', forgiven = '{"FAILED": 2}' where id = ${id}`);
    expect((await review()).status).toBe('RUNNING');
    await rig.crowd.end((await rig.crowd.busy()).slice(0, 1), 'FAILED');
    expect((await review()).status).toBe('RUNNING');
    await rig.crowd.end((await rig.crowd.busy()).slice(0, 1), 'FAILED');
    expect((await review()).status).toBe('PAUSED');
  });
});
