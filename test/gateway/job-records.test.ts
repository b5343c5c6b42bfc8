import { eq, sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { quarantine } from '../../db/schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { executionOf, queueJob, type TestJob } from '../support/jobs.ts';
import { createExecutors } from './executors.ts';

let database: TestDatabase;
let executors: ReturnType<typeof createExecutors>;
beforeAll(async () => {
  database = await makeDatabase();
  executors = createExecutors(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

describe('what is recorded', () => {
  test('has an event for each status and phase, and pokes the rollout when it ends', async () => {
    const { device, update, relay } = executors;
    const { session, id, jobs } = await device({});
    const [job] = jobs as [TestJob];
    const report = (status: string, statusDetails?: object) => update(session, job, { status, statusDetails });
    await report('IN_PROGRESS', { phase: 'DOWNLOADING' });
    await report('IN_PROGRESS', { phase: 'DOWNLOADING', percent: '50' });
    await report('IN_PROGRESS');
    await report('IN_PROGRESS', { phase: 'INSTALLING' });
    expect(await executors.pokesTo(job)).toEqual([]);
    const wakes = relay.wakes;
    await report('SUCCEEDED');
    const { id: jobId, rolloutId } = job;
    const event = (kind: string, phase: string) => ({
      kind,
      subject: `rollout/${rolloutId}`,
      data: { rolloutId, jobId, attempt: 1, phase },
    });
    expect(await executors.eventsOf(id)).toEqual([
      event('execution.in-progress', 'DOWNLOADING'),
      event('execution.in-progress', 'INSTALLING'),
      event('execution.succeeded', 'INSTALLING'),
    ]);
    expect(await executors.pokesTo(job)).toMatchObject([{ kind: 'signal', name: 'rolloutProgressed', argument: {} }]);
    expect(relay.wakes).toBe(wakes + 1);
  });

  test('starts the timers, moves the step’s, and ends them', async () => {
    const { device, update, db } = executors;
    const { session, id, jobs } = await device({ endWithinSeconds: 3_600 });
    const [job] = jobs as [TestJob];
    const report = async (body: object) => {
      await update(session, job, { status: 'IN_PROGRESS', ...body });
      const { updatedAt, startedAt, dueAt, stepDueAt } = await executionOf(db, job, id);
      const since = (from: Date | null, to: Date | null) =>
        from && to && Math.round((to.getTime() - from.getTime()) / 1_000);
      return { due: since(startedAt, dueAt), step: since(updatedAt, stepDueAt) };
    };
    expect(await report({ stepTimeoutInMinutes: '10' })).toEqual({ due: 3_600, step: 600 });
    expect(await report({ stepTimeoutInMinutes: 2 })).toEqual({ due: 3_600, step: 120 });
    expect(await report({})).toMatchObject({ due: 3_600, step: expect.any(Number) });
    expect(await report({ stepTimeoutInMinutes: -1 })).toEqual({ due: 3_600, step: null });
    expect(await report({ stepTimeoutInMinutes: 10_080 })).toEqual({ due: 3_600, step: 604_800 });
    expect(await report({ status: 'SUCCEEDED' })).toEqual({ due: null, step: null });
  });

  test.each([10_081, -2, 'soon', 0.5])('has no timer of %j minutes', async (stepTimeoutInMinutes) => {
    const { session, job, read } = await executors.deviceAt('IN_PROGRESS');
    const answer = await executors.update(session, job, { status: 'IN_PROGRESS', stepTimeoutInMinutes });
    expect(answer).toMatchObject({ outcome: 'rejected', body: { code: 'InvalidRequest' } });
    expect(await read()).toMatchObject({ version: 7 });
  });

  test('pokes the rollout when it will time out sooner than it would have', async () => {
    const { device, update } = executors;
    const { session, jobs } = await device({ endWithinSeconds: 3_600 });
    const [job] = jobs as [TestJob];
    await update(session, job, { status: 'IN_PROGRESS' });
    expect(await executors.pokesTo(job)).toHaveLength(1);
    await update(session, job, { status: 'IN_PROGRESS', stepTimeoutInMinutes: 120 });
    expect(await executors.pokesTo(job)).toHaveLength(1);
    await update(session, job, { status: 'IN_PROGRESS', stepTimeoutInMinutes: 5 });
    expect(await executors.pokesTo(job)).toHaveLength(2);
  });

  test('of one rollout by many devices is one poke', async () => {
    const { device, update, db } = executors;
    const devices = await Promise.all(Array.from({ length: 30 }, () => device()));
    const { jobs } = await device({});
    const [job] = jobs as [TestJob];
    await queueJob(
      db,
      job,
      devices.map(({ id }) => id),
    );
    await Promise.all(devices.map(({ session }) => update(session, job, { status: 'SUCCEEDED' })));
    expect((await executors.pokesTo(job)).length).toBeLessThan(4);
    expect((await executors.pokesTo(job)).length).toBeGreaterThan(0);
  });

  test('is recorded once, though what the same device says after it is refused by Postgres', async () => {
    const { device, update, db } = executors;
    await db.execute(sql`alter table executions add constraint venom check (details ->> 'x' is distinct from 'venom')`);
    const { session, id, jobs } = await device({});
    const [job] = jobs as [TestJob];
    const said = ['one', 'two', 'venom', 'three'];
    const answers = await Promise.all(
      said.map((x) => update(session, job, { status: 'IN_PROGRESS', statusDetails: { x } })),
    );
    await db.execute(sql`alter table executions drop constraint venom`);
    expect(answers.map(({ body }) => body.code ?? 'accepted')).toEqual([
      'accepted',
      'accepted',
      'InternalError',
      'accepted',
    ]);
    expect(await executionOf(db, job, id)).toMatchObject({ version: 4, details: { x: 'three' } });
  });

  test('is refused by Postgres for one alone, and kept for a person to see', async () => {
    const { device, update, db, quarantined } = executors;
    const before = (await quarantined.get()).values[0]?.value ?? 0;
    await db.execute(
      sql`alter table executions add constraint poison check (details ->> 'x' is distinct from 'poison')`,
    );
    const devices = await Promise.all(Array.from({ length: 12 }, () => device({})));
    const answers = await Promise.all(
      devices.map(({ session, jobs: [job] }, index) =>
        update(session, job as TestJob, { status: 'SUCCEEDED', statusDetails: { x: index === 5 ? 'poison' : 'fine' } }),
      ),
    );
    await db.execute(sql`alter table executions drop constraint poison`);
    expect(answers.map(({ body }) => body.code ?? 'accepted')).toEqual(
      devices.map((_, index) => (index === 5 ? 'InternalError' : 'accepted')),
    );
    const kept = eq(quarantine.deviceId, devices[5]?.id ?? '');
    expect(await db.select().from(quarantine).where(kept)).toMatchObject([
      { error: expect.stringContaining('poison') },
    ]);
    expect((await quarantined.get()).values[0]?.value).toBe(before + 1);
  });
});
