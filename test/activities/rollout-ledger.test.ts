import { sql } from 'drizzle-orm';
import * as fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RolloutPlan } from '../../db/rollout-plan.ts';
import { runs, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
beforeAll(async () => void (rig = await startRollouts()));
afterAll(() => rig[Symbol.asyncDispose]());

const deviceCount = 24;
const consequence = fc.constantFrom('pause' as const, 'stop' as const, 'undo' as const);

const plans: fc.Arbitrary<Partial<RolloutPlan>> = fc.record({
  waves: fc
    .array(
      fc.oneof(
        fc.record({ count: fc.integer({ min: 1, max: 9 }) }),
        fc.record({ percent: fc.integer({ min: 5, max: 40 }) }),
      ),
      {
        maxLength: 3,
      },
    )
    .map((waves) => [...waves, {}]),
  pace: fc.record({ inFlightMax: fc.integer({ min: 1, max: 9 }) }),
  gate: fc.record({
    succeededPercent: fc.integer({ min: 0, max: 100 }),
    soakSeconds: fc.constantFrom(0, 100),
    manual: fc.boolean(),
    otherwise: consequence,
  }),
  limits: fc.array(
    fc.record({
      kind: fc.constantFrom('FAILED' as const, 'TIMED_OUT' as const, 'ANY' as const),
      count: fc.integer({ min: 1, max: 8 }),
      judgedMin: fc.constant(0),
      then: consequence,
    }),
    { maxLength: 2 },
  ),
  retries: fc.record({
    max: fc.integer({ min: 0, max: 2 }),
    backoffSeconds: fc.constant(30),
    kinds: fc.constant(['FAILED' as const]),
  }),
  stopping: fc.constantFrom('queued' as const, 'all' as const),
});

const acts = ['succeed', 'fail', 'reject', 'start', 'lie', 'revert', 'leave', 'wait', 'block'] as const;
const orders = ['pause', 'resume', 'stop', 'undo'] as const;
const steps = fc.array(
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({ act: fc.constantFrom(...acts), share: fc.double({ min: 0, max: 1, noNaN: true }) }),
    },
    { weight: 1, arbitrary: fc.record({ act: fc.constantFrom(...orders), share: fc.constant(0) }) },
  ),
  { minLength: 3, maxLength: 20 },
);
type Step = { act: (typeof acts)[number] | (typeof orders)[number]; share: number };

test('whatever devices and operators do, caps hold, counters are the rows, a stop tells nobody more, and everybody ends in one verdict', async () => {
  await fc.assert(
    fc.asyncProperty(plans, steps, async (plan, story) => {
      await rig.reset();
      const { id, review } = await rig.begin(deviceCount, plan);
      const cap = plan.pace?.inFlightMax ?? Infinity;
      let status = await stateOf(id);
      for (const step of story) {
        const before = { status, told: await toldForward(id) };
        await take(id, step);
        const held = await stateOf(id);
        status = (await review()).status;
        expect(await inFlight(id)).toBeLessThanOrEqual(cap);
        if (held !== 'RUNNING' || !['RUNNING', 'FINISHED'].includes(status)) {
          if (status !== 'RUNNING' && before.status !== 'RUNNING') expect(await toldForward(id)).toBe(before.told);
        }
        await expectCountersAreRows(id);
      }
      await drain(id, review);
      await expectCountersAreRows(id);
      expect(await undecided(id)).toBe(0);
      expect(await openExecutions(id)).toBe(0);
      expect(await isNewestFirst(id)).toBe(true);
    }),
    { numRuns: Number(process.env['LONGHAUL_TEST_RUNS'] ?? 12), endOnFailure: true },
  );
}, 240_000);

async function take(id: string, { act, share }: Step): Promise<void> {
  const { db, crowd, ledger } = rig;
  const busy = await crowd.busy();
  const some = busy.slice(0, Math.ceil(busy.length * share));
  if (act === 'succeed') await succeed(some);
  else if (act === 'fail') await crowd.end(some, 'FAILED');
  else if (act === 'reject') await crowd.end(some, 'REJECTED');
  else if (act === 'start') await crowd.start(some);
  else if (act === 'lie') await crowd.succeed(some);
  else if (act === 'wait') ledger.advance(share * 5_000_000);
  else if (act === 'revert') await runs(db, await updated(id, share), '1.0.0');
  else if (act === 'leave') await crowd.connect(await updated(id, share), false);
  else if (act === 'block')
    await db.execute(sql`
    update devices set state = 'BLOCKED' where id in (select id from devices where state = 'ACTIVE' order by id limit 1)`);
  else await order(id, act);
}

/** Each runs what its job is about. */
async function succeed(ids: string[]): Promise<void> {
  const back = await rig.db.execute<{ id: string }>(sql`
    select device_id as id from rollout_targets where direction = 'BACK' and device_id = any (${sql.param(ids)}::uuid[])`);
  const going = new Set(back.map((row) => row.id));
  await rig.crowd.succeed(
    ids.filter((one) => going.has(one)),
    '1.0.0',
  );
  await rig.crowd.succeed(
    ids.filter((one) => !going.has(one)),
    '2.0.0',
  );
}

/** What the API's statements do to the row. */
const changes = {
  pause: sql`state = 'PAUSED', reason = 'operator' where state = 'RUNNING'`,
  resume: sql`state = 'RUNNING', reason = null, forgiven = (
    select coalesce(jsonb_object_agg(verdict, devices), '{}') from (
      select verdict, count(*) as devices from rollout_targets t
      where t.rollout_id = rollouts.id and verdict is not null group by verdict) v)
    where state = 'PAUSED'`,
  stop: sql`state = 'STOPPING', reason = 'operator' where state in ('RUNNING', 'PAUSED')`,
  undo: sql`state = 'UNDOING', reason = 'operator' where state in ('RUNNING', 'PAUSED', 'STOPPING')`,
};
async function order(id: string, act: keyof typeof changes): Promise<void> {
  if (act === 'resume') {
    await rig.db.execute(sql`update waves set passed_by = 'api-key/x' where rollout_id = ${id}
      and number = (select wave from rollouts where id = ${id} and state = 'PAUSED')`);
  }
  await rig.db.execute(sql`update rollouts set ${changes[act]} and id = ${id}`);
}

/** Lets everybody do well, and time pass, until it has ended: it must. */
async function drain(id: string, review: () => Promise<{ waitMs: number | undefined }>): Promise<void> {
  for (let round = 0; round < 400; round += 1) {
    if ((await review()).waitMs === undefined) return;
    await order(id, 'resume');
    await succeed(await rig.crowd.busy());
    rig.ledger.advance(3_000_000);
  }
  throw new Error(`it does not end: ${await stateOf(id)}`);
}

async function stateOf(id: string): Promise<string> {
  const [row] = await rig.db.execute<{ state: string }>(sql`select state from rollouts where id = ${id}`);
  return row?.state ?? '';
}

const one = async (query: ReturnType<typeof sql>): Promise<number> => {
  const [row] = await rig.db.execute<{ count: number }>(query);
  return row?.count ?? 0;
};
const toldForward = (id: string) =>
  one(sql`select count(*)::int as count from executions where job_id = (select job_id from rollouts where id = ${id})`);
const inFlight = (id: string) =>
  one(sql`select count(*)::int as count from rollout_targets where rollout_id = ${id} and state = 'IN_FLIGHT'`);
const openExecutions = (id: string) =>
  one(sql`select count(*)::int as count from executions e join jobs j on j.id = e.job_id
    where j.rollout_id = ${id} and e.ended_at is null`);
const undecided = (id: string) =>
  one(sql`select count(*)::int as count from rollout_targets where rollout_id = ${id}
    and (state <> 'DONE' or verdict is null or (direction = 'BACK') <> (undo_verdict is not null))`);

async function updated(id: string, share: number): Promise<string[]> {
  const rows = await rig.db.execute<{ id: string }>(sql`
    select device_id as id from rollout_targets where rollout_id = ${id} and verdict = 'SUCCEEDED' order by place`);
  return rows.slice(0, Math.ceil((rows.length * share) / 3)).map((row) => row.id);
}

async function expectCountersAreRows(id: string): Promise<void> {
  const counted = await rig.db.execute(sql`
    select number, verdicts, undo_verdicts from waves where rollout_id = ${id} order by number`);
  const rows = await rig.db.execute(sql`
    select w.number,
      (select coalesce(jsonb_object_agg(verdict, n), '{}') from (select verdict, count(*) as n from rollout_targets
        where rollout_id = w.rollout_id and wave = w.number and verdict is not null group by verdict) v) as verdicts,
      (select coalesce(jsonb_object_agg(undo_verdict, n), '{}') from (select undo_verdict, count(*) as n from rollout_targets
        where rollout_id = w.rollout_id and wave = w.number and undo_verdict is not null group by undo_verdict) v) as undo_verdicts
    from waves w where rollout_id = ${id} order by number`);
  const positive = (row: Record<string, unknown>) =>
    JSON.parse(JSON.stringify(row, (_, value: unknown) => (value === 0 ? undefined : value))) as unknown;
  expect(counted.map(positive)).toEqual(rows.map(positive));
}

/** Of those that went back, nobody of a wave was told for the first time before one of a newer wave that was there too. */
async function isNewestFirst(id: string): Promise<boolean> {
  const rows = await rig.db.execute<{ wave: number }>(sql`
    select t.wave from rollout_targets t
    join executions e on e.job_id = t.job_id and e.device_id = t.device_id and e.attempt = 1
    where t.rollout_id = ${id} and t.direction = 'BACK' order by e.queued_at, t.wave desc`);
  return rows.every(({ wave }, index) => wave <= (rows[index - 1]?.wave ?? Infinity));
}
