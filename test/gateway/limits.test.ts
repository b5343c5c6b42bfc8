import { eq } from 'drizzle-orm';
import type { IPublishPacket } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { audit } from '../../db/schema.ts';
import { deviceKey } from '../../gateway/identity.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
import type { RawClient } from '../support/raw-mqtt.ts';

const limits = {
  messageBytesMax: 2_048,
  filtersPerSubscribeMax: 4,
  subscriptionsMax: 6,
  topicLevelsMax: 10,
  publishesPerSecond: 50,
  inFlightMax: 5,
  connectWithinMs: 500,
  outgoingMax: 3,
  acknowledgeWithinMs: 1_000,
};

let database: TestDatabase;
let fleet: Fleet;
let gateway: GatewayRig;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  gateway = await startTestGateway(fleet, { limits });
});
afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const responseTo = (name: string, packet: Partial<IPublishPacket> = {}): IPublishPacket => ({
  cmd: 'publish',
  topic: `$aws/commands/things/${name}/executions/x/response/json`,
  payload: '{}',
  qos: 1,
  messageId: 1,
  dup: false,
  retain: false,
  ...packet,
});
const filterOf = (name: string, level = '+') => `$aws/commands/things/${name}/executions/${level}/request/json`;

/** A device that goes over a limit, and another whose round trip shows that it is not touched. */
async function pair(protocol: 4 | 5 = 5) {
  const [one, two] = [await fleet.makeDevice(), await fleet.makeDevice()];
  const [raw, neighbour] = [await gateway.dial(one, { protocol }), await gateway.dial(two)];
  await raw.connack({ clientId: 'over' });
  await neighbour.connack({ clientId: 'neighbour' });
  return { raw, name: one.name, key: deviceKey(one.deviceId), unharmed: () => expectUnharmed(neighbour, two.name) };
}

async function expectUnharmed(neighbour: RawClient, name: string): Promise<void> {
  const started = performance.now();
  neighbour.send(responseTo(name, { messageId: 99 }));
  expect(await neighbour.next('puback')).toMatchObject({ messageId: 99, reasonCode: 0 });
  expect(performance.now() - started).toBeLessThan(5_000);
}

describe('a device is closed, and its neighbour unharmed, when', () => {
  test.each([
    ['its message is too large', (name: string) => responseTo(name, { payload: 'x'.repeat(2_049) }), 0x95],
    ['its packet is much too large', (name: string) => responseTo(name, { payload: 'x'.repeat(1_048_576) }), 0x95],
  ])('%s', async (_, packetOf, code) => {
    const { raw, name, unharmed } = await pair();
    raw.send(packetOf(name));
    await raw.closed;
    // The second one is still being sent when it is cut off, and a reset may overtake the DISCONNECT.
    const { reasonCode = code } = (await raw.next('disconnect')) ?? {};
    expect(reasonCode).toBe(code);
    expect(raw.received.filter(({ cmd }) => cmd === 'puback')).toEqual([]);
    await unharmed();
  });

  test('one SUBSCRIBE has too many filters', async () => {
    const { raw, name, unharmed } = await pair();
    const subscriptions = Array.from({ length: 5 }, (_, n) => ({ topic: filterOf(name, `e${n}`), qos: 1 as const }));
    raw.send({ cmd: 'subscribe', messageId: 1, subscriptions });
    expect(await raw.next('disconnect')).toMatchObject({ reasonCode: 0x97 });
    await raw.closed;
    await unharmed();
  });

  test('its topic is too deep', async () => {
    const { raw, unharmed } = await pair();
    raw.send(responseTo('any', { topic: Array.from({ length: 200 }, () => 'a').join('/') }));
    await raw.closed;
    expect(raw.received.filter(({ cmd }) => cmd === 'puback')).toEqual([]);
    await unharmed();
  });

  test('it sends no CONNECT', async () => {
    const silent = await gateway.dial(await fleet.makeDevice());
    const { unharmed } = await pair();
    await silent.closed;
    expect(silent.received).toEqual([]);
    await unharmed();
  });

  test.each([4, 5] as const)('it falls silent for one and a half times its keep alive (MQTT %s)', async (protocol) => {
    const device = await fleet.makeDevice();
    const raw = await gateway.dial(device, { protocol });
    await raw.connack({ keepalive: 1 });
    const { unharmed } = await pair();
    await raw.closed;
    const told = protocol === 5 ? [{ cmd: 'disconnect', reasonCode: 0x8d }] : [];
    expect(raw.received.slice(1)).toMatchObject(told);
    await unharmed();
  });
});

test('subscriptions over the limit are denied, and those below it stay', async () => {
  const { raw, name, unharmed } = await pair();
  const subscribe = (from: number, count: number, messageId: number) => {
    const filters = Array.from({ length: count }, (_, n) => ({
      topic: filterOf(name, `e${from + n}`),
      qos: 1 as const,
    }));
    raw.send({ cmd: 'subscribe', messageId, subscriptions: filters });
    return raw.next('suback');
  };
  expect(await subscribe(0, 4, 1)).toMatchObject({ granted: [1, 1, 1, 1] });
  expect(await subscribe(4, 4, 2)).toMatchObject({ granted: [1, 1, 0x87, 0x87] });
  // Asked for again, it is none more.
  expect(await subscribe(0, 1, 3)).toMatchObject({ granted: [1] });
  await unharmed();
});

test('a device that publishes too fast is slowed, and loses nothing', async () => {
  const { raw, name, unharmed } = await pair();
  const started = performance.now();
  for (let messageId = 1; messageId <= 120; messageId++) raw.send(responseTo(name, { messageId }));
  await unharmed();
  const acknowledged = () => raw.received.flatMap((packet) => (packet.cmd === 'puback' ? [packet.messageId] : []));
  await expect.poll(acknowledged, { timeout: 8_000 }).toHaveLength(120);
  expect(acknowledged()).toEqual(Array.from({ length: 120 }, (_, n) => n + 1));
  // Fifty at once from the bucket, the other seventy at fifty a second.
  expect(performance.now() - started).toBeGreaterThan(1_200);
});

test('a device that floods is left with its flood: its socket is not read', async () => {
  const { raw, name, unharmed } = await pair();
  const flood = 12_000;
  for (let n = 0; n < flood; n++) raw.send(responseTo(name, { qos: 0, payload: 'x'.repeat(2_000) }));
  // At its own rate the neighbour needs two seconds for these: long enough to read it all.
  for (let turn = 0; turn < 150; turn++) await unharmed();
  // What the sockets' own buffers take, some megabytes, is gone from here.
  expect(raw.socket.writableLength).toBeGreaterThan(flood * 1_000);
});

test('while the gateway is paused, who waits with a publish is not read, and who does not is answered', async () => {
  const { raw, name } = await pair();
  const neighbour = await gateway.dial(await fleet.makeDevice());
  await neighbour.connack();
  gateway.listener.pause();
  raw.send(responseTo(name));
  // What comes in one read with the publish was read before the pause could hold.
  for (let turn = 0; turn < 20; turn++) {
    neighbour.send({ cmd: 'pingreq' });
    expect(await neighbour.next('pingresp')).toBeDefined();
  }
  for (let turn = 0; turn < 20; turn++) {
    raw.send({ cmd: 'pingreq' });
    neighbour.send({ cmd: 'pingreq' });
    expect(await neighbour.next('pingresp')).toBeDefined();
  }
  expect(raw.received.map(({ cmd }) => cmd)).toEqual(['connack']);
  gateway.listener.resume();
  await expect.poll(() => raw.received.filter(({ cmd }) => cmd === 'pingresp').length).toBe(20);
  expect(raw.received.filter(({ cmd }) => cmd === 'puback')).toHaveLength(1);
});

test('a device that does not acknowledge is sent no more than it can take, and then nothing is kept for it', async () => {
  const device = await fleet.makeDevice();
  const raw = await gateway.dial(device);
  await raw.connack({ clientId: 'deaf', properties: { receiveMaximum: 2 } });
  raw.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: filterOf(device.name), qos: 1 }] });
  await raw.next('suback');
  const { unharmed } = await pair();
  const message = { topic: filterOf(device.name, 'e'), payload: Buffer.from('do'), qos: 1 as const };
  const results = Array.from({ length: 6 }, () => gateway.listener.notify(deviceKey(device.deviceId), message));
  // Two are sent, three wait, and there is no room for the sixth.
  expect(await results[5]).toBe(false);
  await unharmed();
  const first = await raw.next('publish');
  raw.send({ cmd: 'puback', messageId: first?.messageId ?? 0 });
  expect(await results[0]).toBe(true);
  expect(await results[1]).toBe(false);
  expect(raw.received.filter(({ cmd }) => cmd === 'publish')).toHaveLength(3);
  raw.socket.destroy();
  expect(await Promise.all(results.slice(2, 5))).toEqual([false, false, false]);
});

test('handshakes over the rate of one address are cut off before they begin, and another address is not', async () => {
  await using own = await startTestGateway(fleet, {
    limits: { handshakesPerSecondPerAddress: 3, handshakesPerSecond: 100 },
    host: '0.0.0.0',
  });
  const device = await fleet.makeDevice();
  const hasty = await Promise.all(
    Array.from({ length: 10 }, async (_, n) => (await own.dial(device)).connack({ clientId: `n${n}` })),
  );
  const welcome = hasty.filter((connack) => connack?.reasonCode === 0).length;
  // Three at once, and another for each third of a second that passed meanwhile.
  expect(welcome).toBeGreaterThanOrEqual(3);
  expect(welcome).toBeLessThan(10);
  const elsewhere = await own.dial(await fleet.makeDevice(), { localAddress: '127.0.0.2' });
  expect(await elsewhere.connack()).toMatchObject({ reasonCode: 0 });
});

test('one identity has so many sessions, and another is not touched', async () => {
  await using own = await startTestGateway(fleet, { sessionsPerIdentityMax: 2 });
  const device = await fleet.makeDevice();
  const codes: (number | undefined)[] = [];
  for (const clientId of ['a', 'b', 'c', 'a'])
    codes.push((await (await own.dial(device)).connack({ clientId }))?.reasonCode);
  expect(codes).toEqual([0, 0, 0x88, 0]);
  expect(await (await own.dial(await fleet.makeDevice())).connack()).toMatchObject({ reasonCode: 0 });
});

test('a device that is denied again and again does not fill the audit, and what was spared is counted', async () => {
  const { raw, name, unharmed } = await pair();
  for (let messageId = 1; messageId <= 40; messageId++) raw.send(responseTo('other', { messageId }));
  await expect.poll(() => raw.received.filter(({ cmd }) => cmd === 'puback').length).toBe(40);
  const entries = () =>
    database.db
      .select()
      .from(audit)
      .where(eq(audit.subject, `device/${name}`));
  await expect.poll(async () => (await entries()).length, { timeout: 5_000 }).toBe(6);
  const metrics = await gateway.metrics.registry.metrics();
  expect(metrics).toMatch(/longhaul_gateway_refusals_suppressed_total [1-3]\d/);
  await unharmed();
});

test('a will that its device may not publish is dropped, and the connection is as good as without', async () => {
  const device = await fleet.makeDevice();
  for (const topic of [
    '$aws/commands/things/other/executions/x/response/json',
    'farewell',
    '$aws/commands/things/+/#',
  ]) {
    const raw = await gateway.dial(device);
    expect(await raw.connack({ clientId: 'dies', will: { topic, payload: Buffer.from('x') } })).toMatchObject({
      reasonCode: 0,
    });
    raw.socket.destroy();
  }
  const denied = () =>
    database.db
      .select()
      .from(audit)
      .where(eq(audit.subject, `device/${device.name}`));
  await expect.poll(denied, { timeout: 5_000 }).toHaveLength(3);
  expect((await denied()).map(({ data }) => data['action'])).toEqual(['will', 'will', 'will']);
});
