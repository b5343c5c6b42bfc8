import { randomBytes, randomUUIDv7 } from 'node:crypto';
import { eq, inArray, sql } from 'drizzle-orm';
import { array, assert, asyncProperty, constantFrom, integer, record } from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connect, type Database } from '../../db/client.ts';
import { recordExecutionReports, type ExecutionReport } from '../../db/execution-reports.ts';
import { findExecutions, listPendingExecutions } from '../../db/executions.ts';
import { executions, jobNotices } from '../../db/rollout-schema.ts';
import { events } from '../../db/schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { executionOf, makeJob, queueJob } from '../support/jobs.ts';

let database: TestDatabase;
let db: Database;
beforeAll(async () => {
  database = await makeDatabase();
  ({ db } = database);
});
afterAll(() => database[Symbol.asyncDispose]());

const options = {
  poke: { workflowIdPrefix: 'run-rollout/', signal: 'rolloutProgressed' },
  rotationPoke: { workflowIdPrefix: 'rotate-certificate/', signal: 'rotationOver' },
  inProgressMax: 1,
};
type Said = Partial<ExecutionReport> & Pick<ExecutionReport, 'deviceId' | 'jobId'>;
const report = (said: Said): ExecutionReport => ({
  attempt: null,
  status: 'IN_PROGRESS',
  details: null,
  expectedVersion: null,
  stepMinutes: null,
  request: randomBytes(16).toString('hex'),
  eventId: randomUUIDv7(),
  ...said,
});
const record1 = async (said: Said) => (await recordExecutionReports(db, [report(said)], options))[0];
const waiting = sql`select count(*)::int as count from pg_stat_activity
  where datname = current_database() and wait_event_type = 'Lock'`;
const someoneWaits = () => eventually(async () => ((await db.execute<{ count: number }>(waiting))[0]?.count ?? 0) > 0);

describe('a report that meets another change', () => {
  test('of an execution that ends this very moment is judged by what stands then', async () => {
    const [deviceId, job] = [randomUUIDv7(), await makeJob(db)];
    await queueJob(db, job, [deviceId]);
    const other = connect({ url: database.url, max: 1 });
    const { reporting } = await other.transaction(async (tx) => {
      const canceled = { status: 'CANCELED' as const, version: 2, endedAt: sql`now()` };
      await tx.update(executions).set(canceled).where(eq(executions.jobId, job.id));
      const asked = { reporting: record1({ deviceId, jobId: job.id, status: 'SUCCEEDED' }) };
      await someoneWaits();
      return asked;
    });
    expect(await reporting).toMatchObject({ verdict: 'missed' });
    await other.$client.end();
    const again = await record1({ deviceId, jobId: job.id, status: 'SUCCEEDED' });
    expect(again).toMatchObject({ verdict: 'ended', execution: { status: 'CANCELED', version: 2 } });
  });

  test('of two that start different executions of a device at once, one is refused', async () => {
    for (let round = 0; round < 10; round += 1) {
      const deviceId = randomUUIDv7();
      const jobs = [await makeJob(db), await makeJob(db)];
      for (const job of jobs) await queueJob(db, job, [deviceId]);
      const verdicts = await Promise.all(jobs.map(({ id }) => record1({ deviceId, jobId: id })));
      expect(new Set(verdicts.map((judged) => judged?.verdict))).toEqual(new Set(['busy', 'recorded']));
    }
  });

  test('of many gateways on the same devices comes to no deadlock, and every version is there', async () => {
    const devices = Array.from({ length: 40 }, () => randomUUIDv7());
    const jobs = [await makeJob(db), await makeJob(db)];
    for (const job of jobs) await queueJob(db, job, devices);
    const shuffled = () => devices.toSorted(() => Math.random() - 0.5);
    const gateways = Array.from({ length: 6 }, async (_, index) => {
      const jobId = jobs[0]?.id ?? '';
      for (let round = 0; round < 5; round += 1) {
        const judged = await recordExecutionReports(
          db,
          shuffled().map((deviceId) => report({ deviceId, jobId })),
          options,
        );
        expect(judged.map(({ verdict }) => verdict)).toEqual(devices.map(() => 'recorded'));
      }
      return index;
    });
    await Promise.all(gateways);
    const rows = await db
      .select()
      .from(executions)
      .where(eq(executions.jobId, jobs[0]?.id ?? ''));
    expect(rows.map(({ version }) => version)).toEqual(devices.map(() => 31));
  });
});

test('a statement that is sent twice changes nothing more, and says the same', async () => {
  const deviceId = randomUUIDv7();
  const job = await makeJob(db, { endWithinSeconds: 60 });
  await queueJob(db, job, [deviceId]);
  const said = report({ deviceId, jobId: job.id, details: { phase: 'DOWNLOADING' } });
  const [first] = await recordExecutionReports(db, [said], options);
  const row = await executionOf(db, job, deviceId);
  const [second] = await recordExecutionReports(db, [said], options);
  expect([first?.verdict, second?.verdict]).toEqual(['recorded', 'repeated']);
  const secondsLeft: unknown = expect.any(Number); // the clock goes on
  expect(second?.execution).toEqual({ ...first?.execution, secondsLeft });
  expect(await executionOf(db, job, deviceId)).toEqual(row);
  expect(await db.select().from(events).where(eq(events.deviceId, deviceId))).toHaveLength(1);
});

test('reads answer for many devices at once, each with its own', async () => {
  const devices = Array.from({ length: 5 }, () => randomUUIDv7());
  const [one, other] = [await makeJob(db), await makeJob(db)];
  await queueJob(db, one, devices.slice(0, 3));
  await queueJob(db, other, devices.slice(2, 4), { priority: 1 });
  const pending = await listPendingExecutions(db, devices, { perDevice: 10 });
  const jobsOf = devices.map((deviceId) => pending.get(deviceId)?.map(({ jobId }) => jobId));
  expect(jobsOf).toEqual([[one.id], [one.id], [other.id, one.id], [other.id], undefined]);
  const named = devices.map((deviceId) => ({ deviceId, jobId: other.id, attempt: null }));
  const found = await findExecutions(db, named);
  expect(found.map((execution) => execution?.deviceId)).toEqual([
    undefined,
    undefined,
    devices[2],
    devices[3],
    undefined,
  ]);
});

/** What ought to become of each report, one after the other, said in the plainest way. */
function createModel(deviceId: string, jobs: { id: string; priority: number }[]) {
  const open = new Map(jobs.map(({ id, priority }, place) => [id, { status: 'QUEUED', version: 1, priority, place }]));
  const over = new Map<string, { status: string; version: number }>();
  const head = () =>
    [...open].toSorted(
      ([, a], [, b]) =>
        Number(a.status !== 'IN_PROGRESS') - Number(b.status !== 'IN_PROGRESS') ||
        b.priority - a.priority ||
        a.place - b.place,
    )[0]?.[0];
  return {
    deviceId,
    head,
    report(jobId: string | null, status: string, expectedVersion: number | null) {
      const before = head();
      const id = jobId ?? before;
      const execution = id === undefined ? undefined : open.get(id);
      const verdict = judge();
      if (verdict === 'recorded' && execution && id !== undefined) {
        execution.status = status;
        execution.version += 1;
        if (status !== 'IN_PROGRESS') {
          open.delete(id);
          over.set(id, execution);
        }
      }
      const now = id === undefined ? undefined : (open.get(id) ?? over.get(id));
      const noticed = verdict === 'recorded' && (status !== 'IN_PROGRESS' || head() !== before);
      return { verdict, noticed, status: now?.status, version: now?.version };

      function judge() {
        if (id === undefined) return 'none';
        if (!execution) return over.has(id) ? 'ended' : 'unknown';
        if (jobId === null && execution.status === 'IN_PROGRESS') return 'started';
        if (expectedVersion !== null && expectedVersion !== execution.version) return 'version';
        const isBusy = [...open.values()].some((one) => one.status === 'IN_PROGRESS');
        return status === 'IN_PROGRESS' && execution.status === 'QUEUED' && isBusy ? 'busy' : 'recorded';
      }
    },
  };
}

test('whatever devices say, in whatever statements, each is judged as if alone, and its notice is there', async () => {
  const status = constantFrom(
    'IN_PROGRESS' as const,
    'IN_PROGRESS' as const,
    'SUCCEEDED' as const,
    'REJECTED' as const,
  );
  const step = record({
    device: integer({ min: 0, max: 3 }),
    job: constantFrom(0, 1, 2, 3, 'next' as const),
    status,
    expected: constantFrom(null, null, null, 1, 2, 3),
  });
  await assert(
    asyncProperty(
      array(integer({ min: -1, max: 1 }), { minLength: 3, maxLength: 3 }),
      array(array(step, { maxLength: 4 }), { maxLength: 8 }),
      async (priorities, rounds) => {
        const jobs = await Promise.all(
          [...priorities, 0].map(async (priority) => ({ ...(await makeJob(db)), priority })),
        );
        const models = Array.from({ length: 4 }, () => createModel(randomUUIDv7(), jobs.slice(0, 3)));
        const devices = models.map(({ deviceId }) => deviceId);
        for (const { priority, ...job } of jobs.slice(0, 3)) await queueJob(db, job, devices, { priority });
        for (const round of rounds) {
          const said = [...new Map(round.map((one) => [one.device, one])).values()];
          await db.delete(jobNotices).where(inArray(jobNotices.deviceId, devices));
          const reports = said.map(({ device, job, ...rest }) =>
            report({
              deviceId: devices[device] ?? '',
              jobId: job === 'next' ? null : (jobs[job]?.id ?? ''),
              status: job === 'next' ? 'IN_PROGRESS' : rest.status,
              expectedVersion: job === 'next' ? null : rest.expected,
            }),
          );
          const judged = await recordExecutionReports(db, reports, options);
          const expected = reports.map(({ jobId, status: to, expectedVersion }, index) =>
            models[said[index]?.device ?? 0]?.report(jobId, to, expectedVersion),
          );
          expect(
            judged.map(({ verdict, noticed, execution }) => ({
              verdict,
              noticed,
              status: execution?.status,
              version: execution?.version,
            })),
          ).toEqual(expected);
          const notices = await db.select().from(jobNotices).where(inArray(jobNotices.deviceId, devices));
          const noticed = judged.flatMap((one, index) => (one.noticed ? [reports[index]?.deviceId ?? ''] : []));
          expect(notices.map(({ deviceId }) => deviceId).toSorted()).toEqual(noticed.toSorted());
        }
        const pending = await listPendingExecutions(db, devices, { perDevice: 10 });
        expect(devices.map((deviceId) => pending.get(deviceId)?.[0]?.jobId)).toEqual(models.map(({ head }) => head()));
      },
    ),
    { numRuns: 40 },
  );
});
