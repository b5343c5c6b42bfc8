import { randomUUIDv7 } from 'node:crypto';
import { eq, inArray, sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { executions } from '../../db/rollout-schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { executionOf, makeJob, queueJob } from '../support/jobs.ts';
import { createExecutors, seconds } from './executors.ts';

let database: TestDatabase;
let executors: ReturnType<typeof createExecutors>;
beforeAll(async () => {
  database = await makeDatabase();
  executors = createExecutors(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const document = '{ "operation": "install",  "big": 12345678901234567890, "again": 1, "again": 2 }';

describe('what a device has to do', () => {
  test('is listed by status, the one in progress apart, and in full when it is described', async () => {
    const { device, ask } = executors;
    const { session, name, jobs } = await device({ document }, {});
    const [first, second] = jobs;
    const started = await ask(session, 'start-next', { clientToken: 't1' });
    expect(started.body).toEqual({
      execution: {
        jobId: first?.id,
        thingName: name,
        status: 'IN_PROGRESS',
        queuedAt: seconds,
        startedAt: seconds,
        lastUpdatedAt: seconds,
        versionNumber: 2,
        executionNumber: 1,
        jobDocument: JSON.parse(document),
      },
      timestamp: seconds,
      clientToken: 't1',
    });
    expect(started.text).toContain(`"jobDocument":${document}`);
    const summary = { queuedAt: seconds, lastUpdatedAt: seconds, executionNumber: 1 };
    expect((await ask(session, 'get', { clientToken: 't2' })).body).toEqual({
      inProgressJobs: [{ ...summary, jobId: first?.id, startedAt: seconds, versionNumber: 2 }],
      queuedJobs: [{ ...summary, jobId: second?.id, versionNumber: 1 }],
      timestamp: seconds,
      clientToken: 't2',
    });
    const described = await ask(session, `${second?.id}/get`, '');
    expect(described.body.execution).toMatchObject({
      jobId: second?.id,
      status: 'QUEUED',
      jobDocument: { operation: 'test' },
    });
    expect(described.body.execution).not.toHaveProperty('startedAt');
    expect(described.body.execution).not.toHaveProperty('statusDetails');
    expect(described.body).not.toHaveProperty('clientToken');
  });

  test('comes in order: the one in progress, then the higher priority, then the longer queued', async () => {
    const { device, ask, db } = executors;
    const { session, id } = await device();
    const made = [];
    for (const priority of [0, 5, 5, -3]) {
      const job = await makeJob(db);
      await queueJob(db, job, [id], { priority });
      made.push(job.id);
    }
    const [plain, urgent, urgentToo, idle] = made;
    const listed = async () => (await ask(session, 'get')).body.queuedJobs?.map(({ jobId }) => jobId);
    expect(await listed()).toEqual([urgent, urgentToo, plain, idle]);
    expect((await ask(session, '$next/get')).body.execution?.jobId).toBe(urgent);
    await ask(session, `${idle}/update`, { status: 'IN_PROGRESS' });
    expect((await ask(session, '$next/get')).body.execution?.jobId).toBe(idle);
    expect(await listed()).toEqual([urgent, urgentToo, plain]);
  });

  test('is nothing where nothing is pending: no execution, and no error', async () => {
    const { device, ask } = executors;
    const { session } = await device();
    const nothing = { timestamp: seconds, clientToken: 'x' };
    expect((await ask(session, '$next/get', { clientToken: 'x' })).body).toEqual(nothing);
    expect((await ask(session, 'start-next', { clientToken: 'x' })).body).toEqual(nothing);
    const empty = { inProgressJobs: [], queuedJobs: [], timestamp: seconds };
    expect((await ask(session, 'get')).body).toEqual(empty);
  });

  test('is nobody else’s, though it is the same job', async () => {
    const { device, ask, update, db } = executors;
    const [one, other, stranger] = [await device(), await device(), await device()];
    const job = await makeJob(db);
    await queueJob(db, job, [one.id, other.id]);
    await update(one.session, job, { status: 'FAILED', statusDetails: { secret: 'of one' } });
    const seen = await ask(other.session, `${job.id}/get`);
    expect(seen.body.execution).toMatchObject({ status: 'QUEUED', versionNumber: 1 });
    expect(JSON.stringify(seen)).not.toContain('of one');
    for (const path of [`${job.id}/get`, `${job.id}/update`]) {
      const refused = await ask(stranger.session, path, { status: 'SUCCEEDED' });
      expect(refused).toMatchObject({ outcome: 'rejected', body: { code: 'ResourceNotFound' } });
    }
    expect(await executionOf(db, job, other.id)).toMatchObject({ status: 'QUEUED' });
  });
});

describe('to start what is next', () => {
  test('takes one that is queued, with its details and its step’s timer', async () => {
    const { device, ask, db } = executors;
    const { session, id, jobs } = await device({ endWithinSeconds: 7_200 });
    const [job = { id: '', rolloutId: '' }] = jobs;
    const body = { statusDetails: { step: 'one' }, stepTimeoutInMinutes: 15 };
    const started = await ask(session, 'start-next', body);
    expect(started.body.execution).toMatchObject({
      status: 'IN_PROGRESS',
      statusDetails: { step: 'one' },
      approximateSecondsBeforeTimedOut: expect.toSatisfy((left: number) => left > 890 && left <= 900),
    });
    const row = await executionOf(db, job, id);
    expect(row.stepDueAt?.getTime()).toBe((row.startedAt?.getTime() ?? 0) + 15 * 60_000);
    expect(row.dueAt?.getTime()).toBe((row.startedAt?.getTime() ?? 0) + 7_200_000);
  });

  test('gives one that is in progress as it is', async () => {
    const { device, ask, update, db } = executors;
    const { session, id, jobs } = await device({}, {});
    const [job = { id: '', rolloutId: '' }] = jobs;
    await ask(session, 'start-next', { statusDetails: { step: 'one' } });
    await update(session, job, { status: 'IN_PROGRESS', statusDetails: { step: 'two' } });
    const before = await executionOf(db, job, id);
    const again = await ask(session, 'start-next', { statusDetails: { step: 'one' }, stepTimeoutInMinutes: 1 });
    expect(again.body.execution).toMatchObject({ jobId: job.id, versionNumber: 3, statusDetails: { step: 'two' } });
    expect(await executionOf(db, job, id)).toEqual(before);
  });

  test('by many at once starts one of a device', async () => {
    const { device, ask, db } = executors;
    const { session, id } = await device({}, {}, {});
    const started = await Promise.all(Array.from({ length: 8 }, () => ask(session, 'start-next')));
    expect(new Set(started.map(({ body }) => body.execution?.jobId)).size).toBe(1);
    const running = await db.select().from(executions).where(eq(executions.deviceId, id));
    expect(running.map(({ status }) => status).toSorted()).toEqual(['IN_PROGRESS', 'QUEUED', 'QUEUED']);
  });
});

describe('a description', () => {
  test('keeps the topic’s own segment, and leaves the document out only when it is told to', async () => {
    const { device, ask, ear, dispatch } = executors;
    const { session, name, jobs } = await device({ document });
    const topic = `$aws/things/${name}/jobs/$next/get`;
    await dispatch(session, { topic, payload: Buffer.alloc(0), qos: 1 });
    expect(ear.answers.at(-1)?.topic).toBe(`${topic}/accepted`);
    const id = jobs[0]?.id;
    for (const path of ['$next/get', `${id}/get`]) {
      for (const body of [{}, { includeJobDocument: true }, { includeJobDocument: null }]) {
        expect((await ask(session, path, body)).body.execution).toHaveProperty('jobDocument.operation', 'install');
      }
      expect((await ask(session, path, { includeJobDocument: false })).body.execution).not.toHaveProperty(
        'jobDocument',
      );
    }
  });

  test('is of the last attempt, or of the one it names', async () => {
    const { device, ask, update, db } = executors;
    const { session, id, jobs } = await device({});
    const [job = { id: '', rolloutId: '' }] = jobs;
    await update(session, job, { status: 'FAILED' });
    expect(await ask(session, `${job.id}/get`)).toMatchObject({ body: { code: 'TerminalStateReached' } });
    await queueJob(db, job, [id], { attempt: 2 });
    const last = await ask(session, `${job.id}/get`);
    expect(last.body.execution).toMatchObject({ executionNumber: 2, versionNumber: 1, status: 'QUEUED' });
    expect((await ask(session, `${job.id}/get`, { executionNumber: 2 })).body).toEqual(last.body);
    const first = await ask(session, `${job.id}/get`, { executionNumber: '1', clientToken: 'x' });
    expect(first.body).toEqual({
      code: 'TerminalStateReached',
      message: expect.any(String),
      timestamp: seconds,
      clientToken: 'x',
    });
    const third = await ask(session, `${job.id}/get`, { executionNumber: 3 });
    expect(third).toMatchObject({ outcome: 'rejected', body: { code: 'ResourceNotFound' } });
  });

  test('of what nobody knows is refused by name', async () => {
    const { device, ask } = executors;
    const { session } = await device({});
    for (const job of [randomUUIDv7(), 'x', "'; drop table executions; --", '0'.repeat(64), '$other']) {
      expect(await ask(session, `${job}/get`)).toMatchObject({
        outcome: 'rejected',
        body: { code: 'ResourceNotFound' },
      });
    }
  });

  test('says how long there is until the first timer ends it', async () => {
    const { device, ask, update } = executors;
    const { session, jobs } = await device({ endWithinSeconds: 600 }, {});
    const [job = { id: '', rolloutId: '' }] = jobs;
    const left = async () => {
      const { execution } = (await ask(session, '$next/get')).body;
      return (execution as { approximateSecondsBeforeTimedOut?: number }).approximateSecondsBeforeTimedOut;
    };
    const about = (expected: number) => expect.toSatisfy((given: number) => given <= expected && given > expected - 30);
    expect(await left()).toBeUndefined();
    await ask(session, 'start-next');
    expect(await left()).toEqual(about(600));
    await update(session, job, { status: 'IN_PROGRESS', stepTimeoutInMinutes: 5 });
    expect(await left()).toEqual(about(300));
    await update(session, job, { status: 'IN_PROGRESS', stepTimeoutInMinutes: 60 });
    expect(await left()).toEqual(about(600));
  });
});

test('a topic among those of jobs that means nothing is refused by name', async () => {
  const { device, ask } = executors;
  const { session } = await device({});
  for (const path of ['nothing', 'x/y', 'get/accepted', 'notify', `${randomUUIDv7()}/delete`]) {
    const answer = await ask(session, path, { clientToken: 'x' });
    expect(answer).toMatchObject({ outcome: 'rejected', body: { code: 'InvalidTopic', clientToken: 'x' } });
  }
  expect(await ask(session, 'a/b/c')).toMatchObject({ outcome: 'refused' });
});

test('a device that asks too much at a time is told to come later', async () => {
  const { device, ask } = createExecutors(database.db, { requestsMax: 5 });
  const [eager, other] = [await device({}), await device({})];
  const asked = Array.from({ length: 12 }, () => ask(eager.session, '$next/get'));
  const beside = await ask(other.session, '$next/get');
  const codes = (await Promise.all(asked)).map(({ body }) => body.code ?? 'accepted');
  expect(codes.filter((code) => code === 'accepted').length).toBeGreaterThanOrEqual(5);
  expect(codes.filter((code) => code === 'RequestThrottled').length).toBeGreaterThan(0);
  expect(beside.outcome).toBe('accepted');
  expect((await ask(eager.session, '$next/get')).outcome).toBe('accepted');
});

test('requests of one device are answered in its order, those of many in few statements', async () => {
  const { device, ask, update, db } = executors;
  const { session, jobs } = await device({}, {});
  const [first = { id: '', rolloutId: '' }, second] = jobs;
  const answers = await Promise.all([
    ask(session, 'start-next'),
    update(session, first, { status: 'IN_PROGRESS', includeJobExecutionState: true }),
    update(session, first, { status: 'SUCCEEDED', expectedVersion: 3 }),
    ask(session, '$next/get'),
    update(session, first, { status: 'FAILED' }),
  ]);
  expect(answers.map(({ outcome }) => outcome)).toEqual(['accepted', 'accepted', 'accepted', 'accepted', 'rejected']);
  expect(answers[1].body.executionState).toMatchObject({ versionNumber: 3 });
  expect(answers[3].body.execution?.jobId).toBe(second?.id);

  const devices = await Promise.all(Array.from({ length: 100 }, () => device({})));
  await Promise.all(devices.map(({ session: own }) => ask(own, 'start-next')));
  const rows = await db
    .select({ status: executions.status, transaction: sql<string>`${executions}.xmin::text` })
    .from(executions)
    .where(
      inArray(
        executions.deviceId,
        devices.map(({ id }) => id),
      ),
    );
  expect(rows.map(({ status }) => status)).toEqual(devices.map(() => 'IN_PROGRESS'));
  expect(new Set(rows.map(({ transaction }) => transaction)).size).toBeLessThan(5);
});
