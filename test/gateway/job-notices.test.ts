import { eq, inArray, sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { executions, jobNotices } from '../../db/rollout-schema.ts';
import { noticing } from '../../db/execution-endings.ts';
import { deafWire } from '../../gateway/wire.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { makeJob, queueJob, type TestJob } from '../support/jobs.ts';
import { seconds, type ExecutorsOptions } from './executors.ts';
import { createListeners } from './listeners.ts';

let database: TestDatabase;
beforeAll(async () => void (database = await makeDatabase()));
afterAll(() => database[Symbol.asyncDispose]());

const rig = (options?: ExecutorsOptions) => createListeners(database.db, options);

describe('a device that listens', () => {
  test('is told of a job that is queued for it: all that is pending, and the next with its document', async () => {
    const { device, listen, toldTo, settled, queue } = rig();
    const own = await device();
    await listen(own.session, 'notify', 'notify-next');
    const job = await queue(own);
    await settled(own);
    const summary = { jobId: job.id, queuedAt: seconds, lastUpdatedAt: seconds, versionNumber: 1, executionNumber: 1 };
    expect(toldTo(own.session).map(({ operation, body }) => [operation, body])).toEqual([
      ['notify', { timestamp: seconds, jobs: { QUEUED: [summary] } }],
      [
        'notify-next',
        {
          timestamp: seconds,
          execution: { ...summary, thingName: own.name, status: 'QUEUED', jobDocument: { operation: 'test' } },
        },
      ],
    ]);
  });

  test('hears after its answer what its report has changed, and when nothing is left', async () => {
    const { device, listen, namesTo, settled, update, ear } = rig();
    const { session, jobs, id } = await device({}, {});
    const [first, second] = jobs as [TestJob, TestJob];
    await listen(session, 'notify', 'notify-next');
    await settled({ id });
    ear.told.length = 0;
    let answeredFirst = false;
    const notify = ear.notify;
    ear.notify = (...args) => {
      answeredFirst ||= ear.answers.some(({ topic }) => topic.includes(first.id) && topic.endsWith('accepted'));
      return notify(...args);
    };
    await update(session, first, { status: 'SUCCEEDED' });
    await settled({ id });
    expect(answeredFirst).toBe(true);
    expect(namesTo(session)).toEqual([
      ['notify', { QUEUED: [second.id] }],
      ['notify-next', second.id],
    ]);
    await update(session, second, { status: 'FAILED' });
    await settled({ id });
    expect(namesTo(session).slice(2)).toEqual([
      ['notify', {}],
      ['notify-next', null],
    ]);
  });

  test('hears nothing when the next one merely starts or proceeds', async () => {
    const { device, listen, namesTo, settled, update, ask, noticesOf } = rig();
    const { session, jobs, id } = await device({}, {});
    await listen(session, 'notify', 'notify-next');
    await settled({ id });
    const before = namesTo(session).length;
    await ask(session, 'start-next');
    await update(session, jobs[0] as TestJob, { status: 'IN_PROGRESS' });
    expect(await noticesOf({ id })).toEqual([]);
    expect(namesTo(session)).toHaveLength(before);
  });

  test('hears of the next one alone when it starts another than that', async () => {
    const { device, listen, namesTo, settled, update, ear } = rig();
    const { session, jobs, id } = await device({}, {});
    await listen(session, 'notify', 'notify-next');
    await settled({ id });
    ear.told.length = 0;
    await update(session, jobs[1] as TestJob, { status: 'IN_PROGRESS' });
    await settled({ id });
    expect(namesTo(session)).toEqual([['notify-next', jobs[1]?.id]]);
  });

  test('hears of another next one only when it is another', async () => {
    const { device, listen, namesTo, settled, queue, ear } = rig();
    const own = await device({});
    await listen(own.session, 'notify', 'notify-next');
    await settled(own);
    ear.told.length = 0;
    const later = await queue(own);
    await settled(own);
    expect(namesTo(own.session)).toEqual([['notify', { QUEUED: [own.jobs[0]?.id, later.id] }]]);
    const urgent = await queue(own, 9);
    await settled(own);
    expect(namesTo(own.session).slice(1)).toEqual([
      ['notify', { QUEUED: [urgent.id, own.jobs[0]?.id, later.id] }],
      ['notify-next', urgent.id],
    ]);
  });

  test('is told of ten at most', async () => {
    const { device, listen, namesTo, settled } = rig();
    const own = await device(...Array.from({ length: 13 }, () => ({})));
    await listen(own.session, 'notify');
    await settled(own);
    expect(namesTo(own.session)).toEqual([['notify', { QUEUED: own.jobs.slice(0, 10).map(({ id }) => id) }]]);
  });

  test('hears only what it has subscribed to, and is then not told again', async () => {
    const { device, listen, namesTo, settled, queue } = rig();
    const [lists, heads] = [await device(), await device()];
    await listen(lists.session, 'notify');
    await listen(heads.session, 'notify-next');
    const [one, other] = [await queue(lists), await queue(heads)];
    await Promise.all([settled(lists), settled(heads)]);
    const more = await queue(heads);
    await settled(heads);
    expect(namesTo(lists.session)).toEqual([['notify', { QUEUED: [one.id] }]]);
    expect(namesTo(heads.session)).toEqual([['notify-next', other.id]]);
    expect(more.id).not.toBe(other.id);
  });

  test('hears nothing of another’s', async () => {
    const { device, listen, namesTo, settled, db, hint } = rig();
    const [one, other] = [await device(), await device()];
    for (const { session } of [one, other]) await listen(session, 'notify', 'notify-next');
    const job = await makeJob(db);
    await queueJob(db, job, [one.id]);
    hint(one, other);
    await settled(one);
    expect(namesTo(other.session)).toEqual([]);
  });
});

describe('a device that was away', () => {
  test('is told once it subscribes, and has had the time to ask by itself', async () => {
    const { device, listen, namesTo, settled, noticesOf } = rig({ settleMs: 300 });
    const own = await device({});
    const since = performance.now();
    await listen(own.session, 'notify-next');
    expect(await noticesOf(own)).toHaveLength(1);
    await settled(own);
    expect(performance.now() - since).toBeGreaterThan(300);
    expect(namesTo(own.session)).toEqual([['notify-next', own.jobs[0]?.id]]);
  });

  test.each(['$next/get', 'start-next'])('and asks %s when it comes is not told the same besides', async (question) => {
    const { device, listen, namesTo, settled, ask, queue, hint } = rig({ settleMs: 1_500 });
    const [own, beside] = [await device({}), await device({})];
    await listen(beside.session, 'notify-next');
    await settled(beside);
    await listen(own.session, 'notify', 'notify-next');
    // Whatever was due at this hint has been told when the other device has been.
    hint(own);
    await queue(beside);
    await settled(beside);
    expect((await ask(own.session, question)).body.execution?.jobId).toBe(own.jobs[0]?.id);
    await settled(own);
    expect(namesTo(own.session).map(([operation]) => operation)).toEqual(['notify']);
  });

  test('and asks is told all the same what has changed since', async () => {
    const { device, listen, namesTo, settled, ask, queue } = rig({ settleMs: 300 });
    const own = await device({});
    await listen(own.session, 'notify-next');
    await ask(own.session, '$next/get');
    const urgent = await queue(own, 5);
    await settled(own);
    expect(namesTo(own.session)).toEqual([['notify-next', urgent.id]]);
  });
});

describe('what was not acknowledged', () => {
  test('because the device does not listen any more is told when it does again', async () => {
    const { device, listen, namesTo, settled, queue, ear, hint, noticesOf } = rig();
    const own = await device();
    await listen(own.session, 'notify-next');
    ear.unsubscribe(own.session.key);
    const job = await queue(own);
    const beside = await device({});
    await listen(beside.session, 'notify-next');
    hint(own, beside);
    await settled(beside);
    expect(await noticesOf(own)).toMatchObject([{ attempts: 0 }]);
    await listen(own.session, 'notify-next');
    await settled(own);
    expect(namesTo(own.session)).toEqual([['notify-next', job.id]]);
  });

  test('is told again when the device comes back, as it stands then', async () => {
    const { device, listen, namesTo, settled, ear, notices, db, noticesOf } = rig();
    const own = await device({});
    ear.acknowledges = false;
    await listen(own.session, 'notify-next');
    await eventually(() => ear.told.length === 1);
    expect(await noticesOf(own)).toMatchObject([{ attempts: 1 }]);
    notices.closed(own.session);
    await db.delete(executions).where(eq(executions.deviceId, own.id));
    ear.told[0]?.acknowledge(false);
    ear.acknowledges = true;
    const back = { ...own.session };
    await listen(back, 'notify-next');
    await settled(own);
    expect(namesTo(own.session)).toEqual([
      ['notify-next', own.jobs[0]?.id],
      ['notify-next', null],
    ]);
  });

  test('is told again by the sweep, when its pause is over', async () => {
    const { device, listen, namesTo, settled, ear, db, noticesOf } = rig({ wire: deafWire(), sweepEveryMs: 30 });
    const own = await device({});
    ear.acknowledges = false;
    await listen(own.session, 'notify-next');
    await eventually(() => ear.told.length === 1);
    ear.told[0]?.acknowledge(false);
    const pause = sql<number>`round(extract(epoch from next_attempt_at - now()))::int`;
    expect(await db.select({ pause }).from(jobNotices).where(eq(jobNotices.deviceId, own.id))).toEqual([{ pause: 10 }]);
    expect(ear.told).toHaveLength(1);
    ear.acknowledges = true;
    await db
      .update(jobNotices)
      .set({ nextAttemptAt: sql`now()` })
      .where(eq(jobNotices.deviceId, own.id));
    await settled(own);
    expect(namesTo(own.session)).toHaveLength(2);
    expect(await noticesOf(own)).toEqual([]);
  });

  test.each(['once more', 'after it had ended'])('in time does not end what has changed %s', async (when) => {
    const { device, listen, namesTo, settled, ear, db, hint, noticesOf } = rig();
    const own = await device({});
    ear.acknowledges = false;
    await listen(own.session, 'notify');
    await eventually(() => ear.told.length === 1);
    if (when === 'after it had ended') await db.delete(jobNotices).where(eq(jobNotices.deviceId, own.id));
    await db.execute(noticing(sql`(select ${own.id}::uuid as device_id, true as head) as changed`));
    const changed = await noticesOf(own);
    ear.told[0]?.acknowledge(true);
    // Another's acknowledgement, which comes after this one, is done with first.
    const beside = await device({});
    ear.acknowledges = true;
    await listen(beside.session, 'notify');
    await settled(beside);
    expect(await noticesOf(own)).toEqual(changed);
    hint(own);
    await settled(own);
    expect(namesTo(own.session)).toHaveLength(2);
  });
});

test('of two gateways that look at the same moment, one tells', async () => {
  const [one, other] = [rig(), rig()];
  const devices = await Promise.all(Array.from({ length: 30 }, () => one.device()));
  for (const { session } of devices) {
    for (const { listen } of [one, other]) await listen(session, 'notify-next');
  }
  const ids = devices.map(({ id }) => id);
  await queueJob(database.db, await makeJob(database.db), ids);
  for (const { hint } of [one, other]) hint(...devices);
  for (const own of devices) await one.settled(own);
  const told = [one, other].flatMap(({ ear }) => ear.told.map(({ key }) => key));
  expect(told).toHaveLength(30);
  expect(new Set(told).size).toBe(30);
});

test('a fleet is told in few statements', async () => {
  const { device, listen, ear, db, hint } = rig();
  const devices = await Promise.all(Array.from({ length: 200 }, () => device()));
  await Promise.all(devices.map(({ session }) => listen(session, 'notify-next')));
  ear.acknowledges = false;
  const ids = devices.map(({ id }) => id);
  await queueJob(db, await makeJob(db), ids);
  hint(...devices);
  await eventually(() => ear.told.length === 200);
  const rows = await db
    .select({ claim: sql<string>`${jobNotices}.xmin::text`, attempts: jobNotices.attempts })
    .from(jobNotices)
    .where(inArray(jobNotices.deviceId, ids));
  expect(rows.map(({ attempts }) => attempts)).toEqual(ids.map(() => 1));
  expect(new Set(rows.map(({ claim }) => claim)).size).toBeLessThan(5);
});
