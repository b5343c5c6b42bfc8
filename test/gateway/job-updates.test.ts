import { eq, sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { executions } from '../../db/rollout-schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { executionOf, executionsOf, queueJob, type TestJob } from '../support/jobs.ts';
import { createExecutors, seconds } from './executors.ts';

let database: TestDatabase;
let executors: ReturnType<typeof createExecutors>;
beforeAll(async () => {
  database = await makeDatabase();
  executors = createExecutors(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const settable = ['IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED'];
const ours = ['QUEUED', 'CANCELED', 'TIMED_OUT', 'REMOVED'];
const open = ['QUEUED', 'IN_PROGRESS'] as const;
const terminal = ['SUCCEEDED', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED', 'REMOVED'] as const;

describe('a device may set', () => {
  const permitted = open.flatMap((from) => settable.map((to) => [from, to] as const));
  test.each(permitted)('from %s: %s', async (from, to) => {
    const { session, job, read } = await executors.deviceAt(from);
    const answer = await executors.update(session, job, { status: to, includeJobExecutionState: true });
    const executionState = { status: to, versionNumber: 8, statusDetails: { kept: 'yes' } };
    expect(answer).toMatchObject({ outcome: 'accepted', body: { timestamp: seconds, executionState } });
    const row = await read();
    expect(row).toMatchObject({ status: to, version: 8 });
    expect(row.endedAt !== null).toBe(to !== 'IN_PROGRESS');
  });

  test.each(terminal.flatMap((from) => settable.map((to) => [from, to] as const)))(
    'from %s nothing, and so not %s',
    async (from, to) => {
      const { session, job, read } = await executors.deviceAt(from);
      const before = await read();
      const { outcome, body } = await executors.update(session, job, { status: to, clientToken: 'x' });
      expect({ outcome, body }).toEqual({
        outcome: 'rejected',
        body: {
          code: 'InvalidStateTransition',
          message: expect.any(String),
          timestamp: seconds,
          clientToken: 'x',
          executionState: { status: from, versionNumber: 7, statusDetails: { kept: 'yes' } },
        },
      });
      expect(await read()).toEqual(before);
    },
  );

  test.each([...ours, '', 'succeeded', 'DONE', 1, null, undefined])('never %s', async (status) => {
    const { session, job, read } = await executors.deviceAt('IN_PROGRESS');
    const { outcome, body } = await executors.update(session, job, { status, clientToken: 'x' });
    expect({ outcome, body }).toEqual({
      outcome: 'rejected',
      body: {
        code: 'InvalidRequest',
        message: expect.stringContaining('status'),
        timestamp: seconds,
        clientToken: 'x',
      },
    });
    expect(await read()).toMatchObject({ status: 'IN_PROGRESS', version: 7 });
  });

  test('no second one in progress, unless it is permitted to have more', async () => {
    const { device, ask, update, db } = executors;
    const { session, id, jobs } = await device({}, {}, {});
    const [first, second, third] = jobs as [TestJob, TestJob, TestJob];
    await ask(session, 'start-next');
    const refused = await update(session, second, { status: 'IN_PROGRESS' });
    expect(refused).toMatchObject({
      outcome: 'rejected',
      body: { code: 'InvalidStateTransition', executionState: { status: 'QUEUED', versionNumber: 1 } },
    });
    expect(await update(session, second, { status: 'REJECTED' })).toMatchObject({ outcome: 'accepted' });
    expect(await update(session, first, { status: 'IN_PROGRESS' })).toMatchObject({ outcome: 'accepted' });
    const roomy = createExecutors(db, { inProgressMax: 2 });
    expect(await roomy.update(session, third, { status: 'IN_PROGRESS' })).toMatchObject({ outcome: 'accepted' });
    expect((await executionOf(db, third, id)).status).toBe('IN_PROGRESS');
  });
});

describe('a version', () => {
  test('grows by one with each update, and must be the expected one', async () => {
    const { session, job, read } = await executors.deviceAt('IN_PROGRESS');
    const { update } = executors;
    const stale = await update(session, job, { status: 'SUCCEEDED', expectedVersion: 6, clientToken: 'x' });
    expect(stale.body).toEqual({
      code: 'VersionMismatch',
      message: expect.any(String),
      timestamp: seconds,
      clientToken: 'x',
      executionState: { status: 'IN_PROGRESS', versionNumber: 7, statusDetails: { kept: 'yes' } },
    });
    expect(await update(session, job, { status: 'IN_PROGRESS', expectedVersion: 7 })).toMatchObject({
      outcome: 'accepted',
    });
    expect(await update(session, job, { status: 'IN_PROGRESS', expectedVersion: '8' })).toMatchObject({
      outcome: 'accepted',
    });
    expect(await read()).toMatchObject({ version: 9 });
  });

  test.each([0, '0', '', null, undefined])('expected as %j is none', async (expectedVersion) => {
    const { session, job, read } = await executors.deviceAt('IN_PROGRESS');
    const answer = await executors.update(session, job, { status: 'IN_PROGRESS', expectedVersion });
    expect(answer).toMatchObject({ outcome: 'accepted' });
    expect(await read()).toMatchObject({ version: 8 });
  });

  test.each([-1, 1.5, 'two', '1e', [1], {}, true, 2 ** 53, '99999999999999999999'])(
    'expected as %j is refused',
    async (expectedVersion) => {
      const { session, job, read } = await executors.deviceAt('IN_PROGRESS');
      const answer = await executors.update(session, job, { status: 'IN_PROGRESS', expectedVersion });
      expect(answer).toMatchObject({ outcome: 'rejected', body: { code: 'InvalidRequest' } });
      expect(await read()).toMatchObject({ version: 7 });
    },
  );

  test('of another attempt than the last is that attempt’s', async () => {
    const { device, update, db } = executors;
    const { session, id, jobs } = await device({});
    const [job] = jobs as [TestJob];
    await update(session, job, { status: 'FAILED' });
    await queueJob(db, job, [id], { attempt: 2 });
    const late = await update(session, job, { status: 'SUCCEEDED', executionNumber: 1 });
    expect(late).toMatchObject({ body: { code: 'InvalidStateTransition', executionState: { status: 'FAILED' } } });
    expect(await update(session, job, { status: 'SUCCEEDED', executionNumber: '2' })).toMatchObject({
      outcome: 'accepted',
    });
    expect((await executionsOf(db, job, id)).map(({ status }) => status)).toEqual(['FAILED', 'SUCCEEDED']);
    const last = await update(session, job, { status: 'REJECTED' });
    expect(last).toMatchObject({ body: { code: 'InvalidStateTransition', executionState: { status: 'SUCCEEDED' } } });
    const none = await update(session, job, { status: 'SUCCEEDED', executionNumber: 3 });
    expect(none).toMatchObject({ body: { code: 'ResourceNotFound' } });
    expect(none.body).not.toHaveProperty('executionState');
  });
});

describe('the same request again', () => {
  test.each([
    ['with a token', { status: 'IN_PROGRESS', clientToken: 'x' }],
    ['with a version', { status: 'IN_PROGRESS', expectedVersion: 7 }],
    ['that ends it', { status: 'SUCCEEDED' }],
    [
      'that asks for everything',
      { status: 'FAILED', clientToken: 'y', includeJobExecutionState: true, includeJobDocument: true },
    ],
  ])('%s gets the first answer, and changes nothing', async (_, body) => {
    const { session, job, id, read } = await executors.deviceAt('IN_PROGRESS');
    const first = await executors.update(session, job, { statusDetails: { phase: 'VERIFYING' }, ...body });
    await database.db
      .update(executions)
      .set({ updatedAt: sql`updated_at - interval '9 seconds'` })
      .where(eq(executions.jobId, job.id));
    const [row, happened, pokes] = [await read(), await executors.eventsOf(id), await executors.pokesTo(job)];
    expect(row.version).toBe(8);
    const again = await executors.update(session, job, { statusDetails: { phase: 'VERIFYING' }, ...body });
    const timestamp = Math.floor(row.updatedAt.getTime() / 1_000);
    expect(again.body).toEqual({ ...first.body, timestamp });
    expect([await read(), await executors.eventsOf(id), await executors.pokesTo(job)]).toEqual([row, happened, pokes]);
  });

  test('of progress alone is progress again', async () => {
    const { session, job, read } = await executors.deviceAt('IN_PROGRESS');
    for (const version of [8, 9, 10]) {
      await executors.update(session, job, { status: 'IN_PROGRESS', statusDetails: { at: '50 %' } });
      expect(await read()).toMatchObject({ version });
    }
  });

  test('by many at once is recorded once', async () => {
    const { session, job, id, read } = await executors.deviceAt('IN_PROGRESS');
    const body = { status: 'SUCCEEDED', expectedVersion: 7, includeJobExecutionState: true };
    const answers = await Promise.all(Array.from({ length: 10 }, () => executors.update(session, job, body)));
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    expect(answers[0]).toMatchObject({ outcome: 'accepted', body: { executionState: { versionNumber: 8 } } });
    expect(await read()).toMatchObject({ version: 8 });
    expect(await executors.eventsOf(id)).toHaveLength(1);
    expect(await executors.pokesTo(job)).toHaveLength(1);
  });

  test('after the service has ended the execution is too late', async () => {
    const { session, job } = await executors.deviceAt('IN_PROGRESS');
    const body = { status: 'IN_PROGRESS', clientToken: 'x' };
    await executors.update(session, job, body);
    await database.db
      .update(executions)
      .set({ status: 'TIMED_OUT', version: 9, endedAt: sql`now()` })
      .where(eq(executions.jobId, job.id));
    const again = await executors.update(session, job, body);
    expect(again).toMatchObject({ body: { code: 'InvalidStateTransition', executionState: { status: 'TIMED_OUT' } } });
  });
});

test('what is refused is kept on record, what is merely asked is not', async () => {
  const { device, ask, update, refused } = executors;
  const { session, jobs } = await device({});
  const [job] = jobs as [TestJob];
  const before = refused.length;
  await update(session, job, { status: 'QUEUED' });
  await update(session, job, { status: 'SUCCEEDED', expectedVersion: 5 });
  await ask(session, `${job.id}/get`, { executionNumber: 9 });
  const codes = refused.slice(before).map(({ action, data }) => ({ action, ...data }));
  expect(codes).toMatchObject([
    { action: 'job.refused', code: 'InvalidRequest' },
    { action: 'job.refused', code: 'VersionMismatch' },
  ]);
});
