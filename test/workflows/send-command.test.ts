import { randomUUIDv7 } from 'node:crypto';
import { and, eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { recordCommandReports } from '../../db/command-targets.ts';
import { cancelCommand } from '../../db/command-endings.ts';
import { audit, commands, commandTargets, commandTransitions, events, orders } from '../../db/schema.ts';
import { commandProgressed, sendCommand, sendCommandId } from '../../workflows/send-command.ts';
import { makeCommand, makeDevice } from '../gateway/rows.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';
import { recordHistory } from '../support/histories.ts';
import { startLifecycle, type LifecycleRig } from '../support/lifecycle.ts';

let database: TestDatabase;
let fleet: Fleet;
let lifecycle: LifecycleRig;

beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  lifecycle = await startLifecycle(fleet);
});
afterAll(async () => {
  await lifecycle[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

/** The lifecycle of the command, started as the relay starts it. */
const start = (commandId: string) =>
  lifecycle.client.workflow.start(sendCommand, {
    workflowId: sendCommandId(commandId),
    taskQueue: lifecycle.taskQueue,
    args: [{ commandId }],
  });

const report = (executionId: string, deviceId: string, status: 'IN_PROGRESS' | 'SUCCEEDED' | 'FAILED') =>
  recordCommandReports(
    database.db,
    [
      {
        executionId,
        deviceId,
        status,
        transitionId: randomUUIDv7(),
        eventId: randomUUIDv7(),
        reasonCode: null,
        reasonDescription: null,
        result: null,
      },
    ],
    { workflowIdPrefix: sendCommandId(''), signal: commandProgressed.name },
  );

const statusesOf = async (commandId: string) =>
  (await database.db.select().from(commandTargets).where(eq(commandTargets.commandId, commandId))).map(
    ({ status, statusBy }) => `${status} by ${statusBy}`,
  );
const findCommand = async (id: string) => (await database.db.select().from(commands).where(eq(commands.id, id)))[0];
const openOrders = async (deviceId: string) => database.db.select().from(orders).where(eq(orders.deviceId, deviceId));

test('the lifecycle waits while a device has not answered, and ends with its answer', async () => {
  const device = await makeDevice(database.db);
  const { id, executionIds } = await makeCommand(database.db, [device]);
  const workflow = await start(id);
  await report(executionIds[0] ?? '', device.id, 'IN_PROGRESS');
  await workflow.signal(commandProgressed, {});
  await eventually(async () => {
    const { events: history } = await workflow.fetchHistory();
    return history?.at(-1)?.timerStartedEventAttributes !== undefined;
  });
  expect((await findCommand(id))?.finishedAt).toBeNull();

  await report(executionIds[0] ?? '', device.id, 'SUCCEEDED');
  await workflow.signal(commandProgressed, {});
  expect(await workflow.result()).toBe('1 SUCCEEDED');
  await recordHistory(workflow, 'sendCommand-answered');
  expect((await findCommand(id))?.finishedAt).toBeInstanceOf(Date);
});

test('at the deadline each open target ends as timed out by the service, once, and is not offered again', async () => {
  const [silent, done] = [await makeDevice(database.db), await makeDevice(database.db)];
  const { id, executionIds } = await makeCommand(database.db, [silent, done], { timeoutSeconds: 1 });
  const workflow = await start(id);
  await report(executionIds[1] ?? '', done.id, 'FAILED');
  expect(await workflow.result()).toBe('1 FAILED, 1 TIMED_OUT');
  await recordHistory(workflow, 'sendCommand-timed-out');
  expect((await statusesOf(id)).toSorted()).toEqual(['FAILED by device', 'TIMED_OUT by service']);
  expect(await openOrders(silent.id)).toEqual([]);
  const timedOut = and(
    eq(commandTransitions.executionId, executionIds[0] ?? ''),
    eq(commandTransitions.status, 'TIMED_OUT'),
  );
  expect(await database.db.select().from(commandTransitions).where(timedOut)).toHaveLength(1);
  expect(await database.db.select().from(events).where(eq(events.deviceId, silent.id))).toMatchObject([
    { kind: 'command.timed-out', data: { commandId: id, executionId: executionIds[0] } },
  ]);
  expect(
    await database.db
      .select()
      .from(audit)
      .where(eq(audit.subject, `command/${id}`)),
  ).toContainEqual(expect.objectContaining({ action: 'command.timed-out', data: { targets: 1 } }));
});

test('a late result overrules the time-out of the service, and is marked late', async () => {
  const device = await makeDevice(database.db);
  const { id, executionIds } = await makeCommand(database.db, [device], { timeoutSeconds: 1 });
  const workflow = await start(id);
  await workflow.result();
  expect(await report(executionIds[0] ?? '', device.id, 'SUCCEEDED')).toEqual(['recorded']);
  expect(await statusesOf(id)).toEqual(['SUCCEEDED by device']);
  const transitions = await database.db
    .select()
    .from(commandTransitions)
    .where(eq(commandTransitions.executionId, executionIds[0] ?? ''))
    .orderBy(commandTransitions.id);
  expect(transitions.map(({ status, late }) => [status, late])).toEqual([
    ['CREATED', false],
    ['TIMED_OUT', false],
    ['SUCCEEDED', true],
  ]);
});

test('a thousand answers are one lifecycle with a short history', async () => {
  const targets = await Promise.all(Array.from({ length: 1_000 }, () => makeDevice(database.db)));
  const { id, executionIds } = await makeCommand(database.db, targets);
  const workflow = await start(id);
  for (const [index, { id: deviceId }] of targets.entries()) {
    await report(executionIds[index] ?? '', deviceId, 'SUCCEEDED');
    if (index % 100 === 99) await workflow.signal(commandProgressed, {});
  }
  expect(await workflow.result()).toBe('1000 SUCCEEDED');
  const { historyLength } = await workflow.describe();
  expect(historyLength).toBeLessThan(150);
});

test('a command that is taken back ends, and the devices are not told any more', async () => {
  const device = await makeDevice(database.db);
  const { id } = await makeCommand(database.db, [device]);
  const workflow = await start(id);
  const lifecycleId = { workflowId: sendCommandId(id), signal: commandProgressed.name };
  await cancelCommand(database.db, 'api-key/test', { id, ...lifecycleId });
  await workflow.signal(commandProgressed, {});
  expect(await workflow.result()).toBe('1 CANCELED');
  expect(await openOrders(device.id)).toEqual([]);
});

test('started again from its row, a command goes on where the rows stand', async () => {
  const device = await makeDevice(database.db);
  const { id, executionIds } = await makeCommand(database.db, [device]);
  await report(executionIds[0] ?? '', device.id, 'SUCCEEDED');
  expect(await (await start(id)).result()).toBe('1 SUCCEEDED');
});
