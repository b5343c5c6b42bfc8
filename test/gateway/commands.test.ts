import { setTimeout as pass } from 'node:timers/promises';
import { eq, sql } from 'drizzle-orm';
import { Counter, Registry } from 'prom-client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cancelCommand, timeOutTargets } from '../../db/command-endings.ts';
import { commands, commandTargets, commandTransitions, events, orders, outbox, quarantine } from '../../db/schema.ts';
import { createCommands } from '../../gateway/commands.ts';
import { createRefusalLog } from '../../gateway/refusals.ts';
import { createRequests } from '../../gateway/requests.ts';
import type { Session } from '../../gateway/messages.ts';
import { sendCommandId } from '../../workflows/send-command.ts';
import { connect, type Database } from '../../db/client.ts';
import { makeDatabase, ownPostgres, type TestDatabase } from '../support/database.ts';
import { availabilityOf, createEar, noEffects, quiet, sessionOf } from './ear.ts';
import { makeCommand, makeDevice } from './rows.ts';

let database: TestDatabase;
beforeAll(async () => void (database = await makeDatabase()));
afterAll(() => database[Symbol.asyncDispose]());

type RigOptions = { db?: Database; limits?: Parameters<typeof createCommands>[0]['limits'] };
function rig({ db = database.db, limits = {} }: RigOptions = {}) {
  const ear = createEar();
  const quarantined = new Counter({ name: 'q', help: 'q', registers: [new Registry()] });
  const relay = { wakes: 0, wake: () => void (relay.wakes += 1) };
  const reports = createCommands({ db, availability: availabilityOf(db), relay, log: quiet, quarantined, limits });
  const refusals = createRefusalLog({ db: db, log: quiet, suppressed: () => {} });
  const { dispatch } = createRequests({ ...noEffects, commands: reports, listener: ear, refusals });
  const respond = async (session: Session, executionId: string, body: unknown) => {
    const name = session.identity.kind === 'device' ? session.identity.name : '';
    const topic = `$aws/commands/things/${name}/executions/${executionId}/response/json`;
    const published = await dispatch(session, { topic, payload: Buffer.from(JSON.stringify(body)), qos: 1 });
    return { published, answer: ear.answers.findLast((answer) => answer.topic.includes(executionId)) };
  };
  return { db, ear, dispatch, respond, quarantined, relay };
}

async function oneCommand(options: Parameters<typeof makeCommand>[2] = {}) {
  const device = await makeDevice(database.db);
  const command = await makeCommand(database.db, [device], options);
  const [executionId = ''] = command.executionIds;
  return { device, session: sessionOf(device), commandId: command.id, executionId };
}

const targetOf = async (executionId: string) =>
  (await database.db.select().from(commandTargets).where(eq(commandTargets.executionId, executionId)))[0];
const transitionsOf = (executionId: string) =>
  database.db
    .select({ status: commandTransitions.status, late: commandTransitions.late, by: commandTransitions.statusBy })
    .from(commandTransitions)
    .where(eq(commandTransitions.executionId, executionId))
    .orderBy(commandTransitions.id);
const ordersOf = (executionId: string) => database.db.select().from(orders).where(eq(orders.id, executionId));
const pokesTo = (commandId: string) =>
  database.db
    .select()
    .from(outbox)
    .where(sql`${outbox.workflowId} = ${sendCommandId(commandId)} and ${outbox.kind} = 'signal'`);

describe('a command response', () => {
  test('is recorded with its transition, its event, its poke and the end of its order before it is accepted', async () => {
    const { respond, relay } = rig();
    const { session, executionId, commandId } = await oneCommand();
    const { published, answer } = await respond(session, executionId, {
      status: 'SUCCEEDED',
      statusReason: { reasonCode: 'DONE', reasonDescription: 'all well' },
      result: { level: { s: '7' }, open: { b: true }, raw: { bin: 'AAEC' }, bare: 5 },
    });
    expect(published).toEqual({ outcome: 'committed' });
    expect(answer?.topic).toMatch(/\/response\/accepted\/json$/);
    expect(answer?.body).toEqual({ executionId });
    expect(await targetOf(executionId)).toMatchObject({
      status: 'SUCCEEDED',
      statusBy: 'device',
      version: 2,
      reasonCode: 'DONE',
      reasonDescription: 'all well',
      result: { level: { s: '7' }, open: { b: true }, raw: { bin: 'AAEC' }, bare: { s: '5' } },
    });
    expect(await transitionsOf(executionId)).toEqual([
      { status: 'CREATED', late: false, by: 'service' },
      { status: 'SUCCEEDED', late: false, by: 'device' },
    ]);
    expect(await ordersOf(executionId)).toEqual([]);
    expect(await pokesTo(commandId)).toMatchObject([{ name: 'commandProgressed', argument: {} }]);
    const happened = await database.db.select().from(events).where(eq(events.kind, 'command.succeeded'));
    expect(happened.map(({ data }) => data)).toContainEqual({ commandId, executionId });
    expect(relay.wakes).toBe(1);
  });

  test('in progress keeps its order and stops it from being told again', async () => {
    const { respond } = rig();
    const { session, executionId, commandId } = await oneCommand();
    await respond(session, executionId, { status: 'IN_PROGRESS' });
    expect(await targetOf(executionId)).toMatchObject({ status: 'IN_PROGRESS', version: 2 });
    const [order] = await database.db
      .select({ never: sql<boolean>`${orders.nextAttemptAt} = 'infinity'` })
      .from(orders)
      .where(eq(orders.id, executionId));
    expect(order).toEqual({ never: true });
    expect(await pokesTo(commandId)).toEqual([]);
  });

  test('repeated is accepted again and changes nothing', async () => {
    const { respond } = rig();
    const { session, executionId, commandId } = await oneCommand();
    for (const status of ['IN_PROGRESS', 'IN_PROGRESS', 'FAILED', 'FAILED']) {
      const { answer } = await respond(session, executionId, { status });
      expect(answer?.body).toEqual({ executionId });
    }
    expect(await targetOf(executionId)).toMatchObject({ status: 'FAILED', version: 3 });
    expect(await transitionsOf(executionId)).toHaveLength(3);
    expect(await pokesTo(commandId)).toHaveLength(1);
  });

  test('with another status after the end is rejected with an error of its own', async () => {
    const { respond } = rig();
    const { session, executionId } = await oneCommand();
    await respond(session, executionId, { status: 'REJECTED' });
    for (const status of ['SUCCEEDED', 'IN_PROGRESS']) {
      const { answer } = await respond(session, executionId, { status });
      expect(answer?.topic).toMatch(/\/response\/rejected\/json$/);
      expect(answer?.body).toMatchObject({ error: 'TerminalStateReached', executionId });
    }
    expect(await targetOf(executionId)).toMatchObject({ status: 'REJECTED', version: 2 });
  });

  test('after the cancellation is rejected', async () => {
    const { respond } = rig();
    const { session, executionId, commandId } = await oneCommand();
    const lifecycle = { id: commandId, workflowId: sendCommandId(commandId), signal: 'commandProgressed' };
    await cancelCommand(database.db, 'api-key/test', lifecycle);
    const { answer } = await respond(session, executionId, { status: 'SUCCEEDED' });
    expect(answer?.body).toMatchObject({ error: 'InvalidStateTransition' });
    expect(await targetOf(executionId)).toMatchObject({ status: 'CANCELED' });
  });

  test('that comes after our time-out overrules it and is marked late', async () => {
    const { respond } = rig();
    const { session, executionId, commandId } = await oneCommand();
    await database.db
      .update(commands)
      .set({ deadlineAt: sql`now()` })
      .where(eq(commands.id, commandId));
    await timeOutTargets(database.db, commandId);
    await respond(session, executionId, { status: 'IN_PROGRESS' });
    expect(await targetOf(executionId)).toMatchObject({ status: 'TIMED_OUT', statusBy: 'service' });
    const { answer } = await respond(session, executionId, { status: 'SUCCEEDED' });
    expect(answer?.body).toEqual({ executionId });
    expect(await targetOf(executionId)).toMatchObject({ status: 'SUCCEEDED', statusBy: 'device' });
    const transitions = (await transitionsOf(executionId)).map(({ status, late }) => `${status}${late ? ' late' : ''}`);
    // Ours and the database's ids are in no order within a millisecond.
    expect(transitions.toSorted()).toEqual(['CREATED', 'IN_PROGRESS late', 'SUCCEEDED late', 'TIMED_OUT']);
    expect(transitions.indexOf('SUCCEEDED late')).toBeGreaterThan(transitions.indexOf('IN_PROGRESS late'));
  });

  test('of TIMED_OUT by the device is its end, also after our own time-out', async () => {
    const { respond } = rig();
    const { session, executionId, commandId } = await oneCommand();
    await database.db
      .update(commands)
      .set({ deadlineAt: sql`now()` })
      .where(eq(commands.id, commandId));
    await timeOutTargets(database.db, commandId);
    await respond(session, executionId, { status: 'TIMED_OUT' });
    const { answer } = await respond(session, executionId, { status: 'SUCCEEDED' });
    expect(answer?.body).toMatchObject({ error: 'TerminalStateReached' });
    expect(await targetOf(executionId)).toMatchObject({ status: 'TIMED_OUT', statusBy: 'device' });
  });

  test('for another device’s execution, an unknown one or none is as if there were none', async () => {
    const { respond } = rig();
    const { executionId } = await oneCommand();
    const stranger = sessionOf(await makeDevice(database.db));
    for (const id of [executionId, '01900000-0000-7000-8000-000000000000', 'x', "'; drop table orders; --"]) {
      const { answer } = await respond(stranger, id, { status: 'SUCCEEDED' });
      expect(answer?.body).toMatchObject({ error: 'ResourceNotFound', executionId: id });
    }
    expect(await targetOf(executionId)).toMatchObject({ status: 'CREATED' });
  });

  test('takes its turn among others for the same execution in one statement', async () => {
    const { respond, ear } = rig();
    const { session, executionId } = await oneCommand();
    const statuses = ['IN_PROGRESS', 'IN_PROGRESS', 'SUCCEEDED', 'SUCCEEDED', 'FAILED', 'IN_PROGRESS'];
    await Promise.all(statuses.map((status) => respond(session, executionId, { status })));
    const verdicts = ear.answers.map(({ body }) => body['error'] ?? 'accepted');
    expect(verdicts).toEqual([
      'accepted',
      'accepted',
      'accepted',
      'accepted',
      'TerminalStateReached',
      'TerminalStateReached',
    ]);
    expect((await transitionsOf(executionId)).map(({ status }) => status)).toEqual([
      'CREATED',
      'IN_PROGRESS',
      'SUCCEEDED',
    ]);
  });

  test('that Postgres refuses is quarantined and fails alone', async () => {
    const { respond, quarantined } = rig();
    await database.db.execute(sql`alter table command_targets add constraint poison check (reason_code <> 'POISON')`);
    const all = await Promise.all(Array.from({ length: 20 }, () => oneCommand()));
    const answers = await Promise.all(
      all.map(async ({ session, executionId }, index) => {
        const statusReason = { reasonCode: index === 7 ? 'POISON' : 'FINE' };
        const { answer } = await respond(session, executionId, { status: 'SUCCEEDED', statusReason });
        return answer?.body['error'] ?? 'accepted';
      }),
    );
    await database.db.execute(sql`alter table command_targets drop constraint poison`);
    expect(answers.map((answer, index) => [index, answer]).filter(([, answer]) => answer !== 'accepted')).toEqual([
      [7, 'InternalError'],
    ]);
    const [kept] = await database.db.select().from(quarantine);
    expect(kept).toMatchObject({ deviceId: all[7]?.device.id });
    expect(kept?.error).toMatch(/poison/);
    expect((await quarantined.get()).values[0]?.value).toBe(1);
  });

  test('with texts that no column can hold is scrubbed, not refused', async () => {
    const { respond } = rig();
    const { session, executionId } = await oneCommand();
    const { answer } = await respond(session, executionId, {
      status: 'FAILED',
      statusReason: { reasonCode: 'bad code!', reasonDescription: 'nul \u0000 half \ud800 ' + 'x'.repeat(5_000) },
      result: { 'k\u0000': { s: '\u0000' }, ['__proto__']: { s: 'x' }, odd: { s: { deep: 1 } }, n: null },
    });
    expect(answer?.body).toEqual({ executionId });
    const target = await targetOf(executionId);
    expect(target?.reasonCode).toBe('BAD_CODE_');
    expect(target?.reasonDescription).toHaveLength(1_024);
    expect(Object.keys(target?.result ?? {})).toEqual(expect.arrayContaining(['k\ufffd']));
    expect(({} as Record<string, unknown>)['s']).toBeUndefined();
  });
});

describe('while Postgres is away', () => {
  test.each(['killed', 'frozen'])('and %s, a report is held, and recorded once when it is back', async (fate) => {
    await using server = await ownPostgres();
    const db = connect({ url: server.url, max: 3 });
    const { respond, ear } = rig({ db, limits: { deadlineMs: 500 } });
    const targets = await Promise.all(Array.from({ length: 20 }, () => makeDevice(db)));
    const { executionIds } = await makeCommand(db, targets);
    const report = (status: string) =>
      Promise.all(targets.map((device, at) => respond(sessionOf(device), executionIds[at] ?? '', { status })));
    await report('IN_PROGRESS');
    if (fate === 'killed') await server.kill();
    else await server.freeze();
    let settled = false;
    const reported = report('SUCCEEDED').finally(() => (settled = true));
    await pass(1_500);
    expect({ settled, answers: ear.answers.length }).toEqual({ settled: false, answers: 20 });
    if (fate === 'killed') await server.start();
    else await server.thaw();
    expect((await reported).map(({ published }) => published.outcome)).toEqual(targets.map(() => 'committed'));
    const recorded = await db.select().from(commandTransitions);
    const ends = recorded.filter(({ status }) => status === 'SUCCEEDED').map(({ executionId }) => executionId);
    expect(ends.toSorted()).toEqual(executionIds.toSorted());
    await db.$client.end({ timeout: 1 });
  });
});
