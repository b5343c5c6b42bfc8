import { eq, sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connect } from '../../db/client.ts';
import { claimDueCommands } from '../../db/orders.ts';
import { commandTargets, orders } from '../../db/schema.ts';
import { createOffers } from '../../gateway/offers.ts';
import { deafWire, localWire, type Wire } from '../../gateway/wire.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { availabilityOf, createEar, quiet, sessionOf } from './ear.ts';
import { makeCommand, makeDevice, openSession } from './rows.ts';

let database: TestDatabase;
beforeAll(async () => void (database = await makeDatabase()));
afterAll(() => database[Symbol.asyncDispose]());

type Options = { wire?: Wire; sweepEveryMs?: number; unacknowledgedMax?: number };
function rig({ wire = deafWire(), ...options }: Options = {}) {
  const { db } = database;
  const ear = createEar();
  const offers = createOffers({ db, listener: ear, wire, availability: availabilityOf(db), log: quiet, ...options });
  const subscribe = (session: ReturnType<typeof sessionOf>, filter: string) => {
    ear.subscribe(session.key, filter);
    offers.subscribed(session, [filter]);
  };
  /** Connects and subscribes to its commands in JSON. */
  const arrive = async (session: ReturnType<typeof sessionOf>) => {
    const name = session.identity.kind === 'device' ? session.identity.name : '';
    await openSession(db, session);
    subscribe(session, `$aws/commands/things/${name}/executions/+/request/json`);
  };
  return { db, ear, offers, subscribe, arrive };
}

const executionsTold = (ear: ReturnType<typeof createEar>) =>
  ear.told.map(({ message }) => message.topic.split('/')[5] ?? '');
const orderOf = async (id: string) =>
  (
    await database.db
      .select({
        attempts: orders.attempts,
        pauseSeconds: sql<number>`round(extract(epoch from ${orders.nextAttemptAt} - now()))::int`,
      })
      .from(orders)
      .where(eq(orders.id, id))
  )[0];
const makeDue = (id: string) =>
  database.db
    .update(orders)
    .set({ nextAttemptAt: sql`now()` })
    .where(eq(orders.id, id));

describe('a pending command', () => {
  test('is told when its device subscribes, with its payload, type and the time that is left', async () => {
    const { ear, arrive, db } = rig();
    const device = await makeDevice(db);
    const { executionIds } = await makeCommand(db, [device], { timeoutSeconds: 30 });
    await arrive(sessionOf(device));
    await eventually(() => ear.told.length === 1);
    const [told] = ear.told;
    expect(told?.message).toMatchObject({
      topic: `$aws/commands/things/${device.name}/executions/${executionIds[0]}/request/json`,
      qos: 1,
      properties: { contentType: 'application/json' },
    });
    expect(Buffer.from(told?.message.payload ?? []).toString()).toBe('{"do":"it"}');
    expect(told?.message.properties?.messageExpiryInterval).toBeGreaterThan(25);
    expect(told?.message.properties?.messageExpiryInterval).toBeLessThanOrEqual(30);
    const delivered = () =>
      db
        .select()
        .from(commandTargets)
        .where(eq(commandTargets.executionId, executionIds[0] ?? ''));
    await eventually(async () => (await delivered())[0]?.deliveredAt !== null);
  });

  test('is told on a hint to a device that is here, and to no other', async () => {
    const wire = localWire();
    const { ear, arrive, db } = rig({ wire });
    const [device, other] = [await makeDevice(db), await makeDevice(db)];
    await arrive(sessionOf(device));
    await arrive(sessionOf(other));
    const { executionIds } = await makeCommand(db, [device]);
    wire.tell({ orders: [device.id] });
    await eventually(() => ear.told.length === 1);
    expect(executionsTold(ear)).toEqual(executionIds);
  });

  test('is found by the sweep when every hint is lost', async () => {
    const { ear, arrive, db } = rig({ sweepEveryMs: 50 });
    const device = await makeDevice(db);
    await arrive(sessionOf(device));
    const { executionIds } = await makeCommand(db, [device]);
    await eventually(() => ear.told.length === 1);
    expect(executionsTold(ear)).toEqual(executionIds);
  });

  test('is told once, however many triggers and gateways there are, until its pause is over', async () => {
    const wires = [localWire(), localWire()];
    const rigs = wires.map((wire) => rig({ wire }));
    const device = await makeDevice(database.db);
    for (const { arrive } of rigs) await arrive(sessionOf(device));
    const { executionIds } = await makeCommand(database.db, [device]);
    for (let round = 0; round < 10; round += 1) for (const wire of wires) wire.tell({ orders: [device.id] });
    const told = () => rigs.flatMap(({ ear }) => executionsTold(ear));
    await eventually(() => told().length > 0);
    // A second command comes after all that was asked before it.
    const second = await makeCommand(database.db, [device]);
    for (const wire of wires) wire.tell({ orders: [device.id] });
    await eventually(() => told().includes(second.executionIds[0] ?? ''));
    expect(told().filter((id) => id === executionIds[0])).toHaveLength(1);
  });

  test('is told again with growing pauses while it is not answered', async () => {
    const { ear, arrive, db } = rig({ sweepEveryMs: 20 });
    const device = await makeDevice(db);
    const { executionIds } = await makeCommand(db, [device], { timeoutSeconds: 86_400 });
    const [id = ''] = executionIds;
    await arrive(sessionOf(device));
    const pauses: number[] = [];
    for (let attempt = 1; attempt <= 6; attempt += 1) {
      await eventually(() => ear.told.length === attempt);
      pauses.push((await orderOf(id))?.pauseSeconds ?? 0);
      await makeDue(id);
    }
    expect(pauses).toEqual([10, 30, 90, 270, 810, 900]);
  });

  test('is told again at once to a device that comes back without having answered', async () => {
    const { ear, offers, arrive, db } = rig();
    const device = await makeDevice(db);
    await makeCommand(db, [device]);
    const first = sessionOf(device);
    await arrive(first);
    await eventually(() => ear.told.length === 1);
    offers.closed(first);
    await arrive(sessionOf(device));
    await eventually(() => ear.told.length === 2);
  });

  test('is not told after its deadline', async () => {
    const { ear, arrive, db } = rig();
    const device = await makeDevice(db);
    const late = await makeCommand(db, [device]);
    await db
      .update(orders)
      .set({ expiresAt: sql`now()` })
      .where(eq(orders.id, late.executionIds[0] ?? ''));
    const open = await makeCommand(db, [device]);
    await arrive(sessionOf(device));
    await eventually(() => ear.told.length > 0);
    expect(executionsTold(ear)).toEqual(open.executionIds);
  });

  test('waits for a subscription of its format, and is told under the client id to who subscribed so', async () => {
    const { ear, arrive, subscribe, db } = rig();
    const device = await makeDevice(db);
    const json = await makeCommand(db, [device]);
    const cbor = await makeCommand(db, [device], { format: 'cbor' });
    const session = sessionOf(device, { clientId: 'arm' });
    await arrive(session);
    await eventually(() => ear.told.length === 1);
    expect(await orderOf(cbor.executionIds[0] ?? '')).toMatchObject({ attempts: 0 });
    subscribe(session, '$aws/commands/clients/arm/executions/+/request/cbor');
    await eventually(() => ear.told.length === 2);
    expect(executionsTold(ear)).toEqual([...json.executionIds, ...cbor.executionIds]);
    expect(ear.told[1]?.message.topic).toMatch(/^\$aws\/commands\/clients\/arm\/executions\/.*\/request\/cbor$/);
  });
});

test('of two gateways that claim at the same moment, each order goes to one', async () => {
  const targets = await Promise.all(Array.from({ length: 20 }, () => makeDevice(database.db)));
  const { executionIds } = await makeCommand(database.db, targets);
  const ready = targets.map(({ id }) => ({ deviceId: id, room: 5, formats: ['json' as const] }));
  const [blocker, ...gateways] = Array.from({ length: 3 }, () => connect({ url: database.url, max: 1 }));
  // One order is held, so that whoever waits for rows instead of passing them over has all of them in hand meanwhile.
  const asked = await blocker?.transaction(async (tx) => {
    await tx
      .select()
      .from(orders)
      .where(eq(orders.id, executionIds[0] ?? ''))
      .for('update');
    let settled = 0;
    const claims = gateways.map((db) => claimDueCommands(db, ready).finally(() => (settled += 1)));
    const waiting = sql`select count(*)::int as count from pg_locks where not granted and database = (
      select oid from pg_database where datname = current_database()) or not granted and locktype = 'transactionid'`;
    await eventually(
      async () => settled + ((await database.db.execute<{ count: number }>(waiting))[0]?.count ?? 0) >= gateways.length,
    );
    return { claims };
  });
  const claimed = (await Promise.all(asked?.claims ?? [])).flat().map(({ executionId }) => executionId);
  expect(claimed.toSorted()).toEqual(executionIds.slice(1).toSorted());
  for (const db of [blocker, ...gateways]) await db?.$client.end();
});

test('a device has no more than its share of unacknowledged commands, and gets the rest as it acknowledges', async () => {
  const { ear, arrive, db } = rig({ unacknowledgedMax: 2 });
  ear.acknowledges = false;
  const device = await makeDevice(db);
  const sent: string[] = [];
  for (let index = 0; index < 5; index += 1) sent.push(...(await makeCommand(db, [device])).executionIds);
  await arrive(sessionOf(device));
  for (let told = 2; told <= 5; told += 1) {
    await eventually(() => ear.told.length === told);
    ear.told[told - 2]?.acknowledge(true);
  }
  expect(executionsTold(ear)).toEqual(sent);
});
