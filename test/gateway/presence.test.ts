import { and, eq } from 'drizzle-orm';
import { randomUUIDv7 } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { events, gateways, presence, presenceChecks, sessions } from '../../db/schema.ts';
import { settlePresence } from '../../db/presence.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
import type { RawClient } from '../support/raw-mqtt.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let fleet: Fleet;
let gateway: GatewayRig;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  gateway = await startTestGateway(fleet);
});
afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const presenceOf = async (deviceId: string) =>
  (await database.db.select().from(presence).where(eq(presence.deviceId, deviceId)))[0];
const eventsOf = (deviceId: string, kind: string) =>
  database.db
    .select()
    .from(events)
    .where(and(eq(events.deviceId, deviceId), eq(events.kind, kind)));

test('a device is connected at once, and disconnected after the debounce, under the version of its session', async () => {
  const device = await fleet.makeDevice();
  const raw = await gateway.dial(device);
  await raw.connack({ clientId: 'seen' });
  const [session] = gateway.listener.held().filter(({ clientId }) => clientId === 'seen');
  expect(await presenceOf(device.deviceId)).toMatchObject({
    connected: true,
    clientId: 'seen',
    version: session?.epoch,
    certificateId: device.certificateId,
    address: '127.0.0.1',
  });
  raw.send({ cmd: 'disconnect', reasonCode: 0 });
  await raw.closed;
  const gone = { connected: false, reason: 'CLIENT_INITIATED_DISCONNECT', version: session?.epoch };
  await expect.poll(() => presenceOf(device.deviceId), { timeout: 5_000 }).toMatchObject(gone);
  const [connected] = await eventsOf(device.deviceId, 'device.connected');
  const [disconnected] = await eventsOf(device.deviceId, 'device.disconnected');
  expect(connected?.data).toMatchObject({ clientId: 'seen', version: session?.epoch });
  expect(disconnected?.data).toMatchObject({ clientId: 'seen', version: session?.epoch, reason: gone.reason });
});

test('a device that comes back in time was never away', async () => {
  const device = await fleet.makeDevice();
  for (let turn = 0; turn < 4; turn++) {
    const raw = await gateway.dial(device);
    await raw.connack({ clientId: 'flaps' });
    if (turn < 3) raw.socket.destroy();
  }
  const checks = () => database.db.select().from(presenceChecks).where(eq(presenceChecks.deviceId, device.deviceId));
  await expect.poll(checks, { timeout: 5_000 }).toEqual([]);
  expect(await presenceOf(device.deviceId)).toMatchObject({ connected: true });
  expect(await eventsOf(device.deviceId, 'device.disconnected')).toEqual([]);
});

test('a device with two clients is connected until the last is gone, whichever came first', async () => {
  const device = await fleet.makeDevice();
  const [first, second] = [await gateway.dial(device), await gateway.dial(device)];
  await first.connack({ clientId: 'first' });
  await second.connack({ clientId: 'second' });
  second.socket.destroy();
  await expect.poll(() => eventsOf(device.deviceId, 'device.disconnected'), { timeout: 5_000 }).toHaveLength(1);
  expect(await presenceOf(device.deviceId)).toMatchObject({ connected: true });
  first.socket.destroy();
  await expect.poll(() => presenceOf(device.deviceId), { timeout: 5_000 }).toMatchObject({ connected: false });
});

test('a connect that commits while the disconnect is judged is not overruled', async () => {
  const device = await fleet.makeDevice();
  const { deviceId, certificateId } = device;
  const row = { deviceId, clientId: 'races', version: 1, certificateId, changedAt: new Date() };
  await database.db.insert(presence).values({ ...row, connected: true });
  await database.db
    .insert(presenceChecks)
    .values({ deviceId, clientId: 'races', epoch: 1, reason: 'CONNECTION_LOST', dueAt: new Date(0) });
  let judging: Promise<number> | undefined;
  await database.db.transaction(async (tx) => {
    await tx.update(presence).set({ version: 2 }).where(eq(presence.deviceId, deviceId));
    judging = settlePresence(database.db);
    await expect
      .poll(() =>
        tx.execute(`select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`),
      )
      .toHaveLength(1);
  });
  await judging;
  expect(await presenceOf(deviceId)).toMatchObject({ connected: true, version: 2 });
});

test('an application that subscribed is told of both, in the words of AWS', async () => {
  const service = await fleet.makeService();
  const app = await gateway.connect(service, { clientId: 'app' });
  const told: { topic: string; body: Record<string, unknown> }[] = [];
  app.on('message', (topic, payload) => void told.push({ topic, body: JSON.parse(payload.toString()) }));
  await app.subscribeAsync(['$aws/events/presence/connected/+', '$aws/events/presence/disconnected/+'], { qos: 1 });
  const device = await fleet.makeDevice();
  const of = (clientId: string) => told.filter(({ body }) => body['clientId'] === clientId);
  // Events from before the gateway had an application are not told; these come after it has read its first place.
  let raw: RawClient | undefined;
  await expect
    .poll(
      async () => {
        raw?.socket.destroy();
        raw = await gateway.dial(device);
        await raw.connack({ clientId: 'watched/1' });
        return of('watched/1').length;
      },
      { interval: 400, timeout: 10_000 },
    )
    .toBeGreaterThan(0);
  const [connected] = of('watched/1');
  expect(connected?.topic).toBe('$aws/events/presence/connected/watched%2F1');
  expect(connected?.body).toEqual({
    clientId: 'watched/1',
    eventType: 'connected',
    timestamp: expect.closeTo(Date.now(), -5),
    sessionIdentifier: expect.any(String),
    principalIdentifier: device.certificateId,
    ipAddress: '127.0.0.1',
    versionNumber: expect.any(Number),
  });
  raw?.send({ cmd: 'disconnect', reasonCode: 0 });
  await expect
    .poll(() => told.at(-1)?.body, { timeout: 8_000 })
    .toMatchObject({
      clientId: 'watched/1',
      eventType: 'disconnected',
      principalIdentifier: device.certificateId,
      clientInitiatedDisconnect: true,
      disconnectReason: 'CLIENT_INITIATED_DISCONNECT',
    });
  expect(told.at(-1)?.body).not.toHaveProperty('ipAddress');
});

test('the sessions of a gateway that died are closed by another, and its devices judged', async () => {
  const device = await fleet.makeDevice();
  const dead = randomUUIDv7();
  const long = new Date(Date.now() - 60_000);
  await database.db.insert(gateways).values({ id: dead, address: 'gone:8883', startedAt: long, beatAt: long });
  const ours = { deviceId: device.deviceId, certificateId: device.certificateId, clientId: 'orphan' };
  const session = {
    ...ours,
    identity: `device/${device.deviceId}`,
    gatewayId: dead,
    protocol: 5,
    epoch: 5,
    connectedAt: long,
  };
  await database.db.insert(sessions).values({ ...session, expirySeconds: 0 });
  await database.db.insert(presence).values({ ...ours, connected: true, version: 5, changedAt: long });
  await using judge = await startTestGateway(fleet, { beatEveryMs: 100, deadAfterMs: 1_000 });
  await expect
    .poll(() => presenceOf(device.deviceId), { timeout: 8_000 })
    .toMatchObject({ connected: false, reason: 'SERVER_ERROR' });
  const judged = await database.db.select().from(gateways);
  expect(judged.find(({ id }) => id === judge.id)).toMatchObject({ stoppedAt: null });
  expect(judged.filter(({ id }) => id === dead)).toMatchObject([{ stoppedAt: expect.any(Date) }]);
});
