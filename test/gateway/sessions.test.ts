import { and, eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { randomBytes, randomUUIDv7 } from 'node:crypto';
import { claims, enrolments } from '../../db/enrolment-schema.ts';
import { audit, certificates, devices, feed, outbox, sessions } from '../../db/schema.ts';
import { deviceKey } from '../../gateway/identity.ts';
import { deafWire, localWire } from '../../gateway/wire.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
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

const commandsOf = (name: string) => `$aws/commands/things/${name}/executions/+/request/json`;
const sessionsOf = (deviceId: string) => database.db.select().from(sessions).where(eq(sessions.deviceId, deviceId));
const auditOf = (action: string, subject: string) => {
  const isAbout = and(eq(audit.action, action), eq(audit.subject, subject));
  return database.db.select().from(audit).where(isAbout);
};
const hold = (deviceId: string) => gateway.listener.held().filter(({ key }) => key === deviceKey(deviceId));

describe('a session that outlives its connection', () => {
  test.each([4, 5] as const)(
    'has its subscriptions as rows before the SUBACK, and again after (MQTT %s)',
    async (protocol) => {
      const device = await fleet.makeDevice();
      const properties = { sessionExpiryInterval: 3600 };
      const lasting = { clientId: 'lasting', clean: false, ...(protocol === 5 && { properties }) };
      const first = await gateway.dial(device, { protocol });
      expect(await first.connack(lasting)).toMatchObject({ sessionPresent: false });
      first.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: commandsOf(device.name), qos: 1 }] });
      await first.next('suback');
      expect(await sessionsOf(device.deviceId)).toMatchObject([{ subscriptions: { [commandsOf(device.name)]: 1 } }]);
      first.socket.destroy();

      const second = await gateway.dial(device, { protocol });
      expect(await second.connack(lasting)).toMatchObject({ sessionPresent: true });
      const topic = commandsOf(device.name).replace('+', 'one');
      expect(gateway.listener.subscribedTo(deviceKey(device.deviceId), topic)).toBe(true);
      void gateway.listener.notify(deviceKey(device.deviceId), { topic, payload: Buffer.from('do'), qos: 1 });
      expect(await second.next('publish')).toMatchObject({ topic, qos: 1 });

      second.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: [commandsOf(device.name)] });
      await second.next('unsuback');
      expect(await sessionsOf(device.deviceId)).toMatchObject([{ subscriptions: {} }]);
      expect(gateway.listener.subscribedTo(deviceKey(device.deviceId), topic)).toBe(false);
    },
  );

  test('is wiped by a clean start, by its expiry, and when it was to end with its connection', async () => {
    const device = await fleet.makeDevice();
    const lasting = { clientId: 'wiped', clean: false, properties: { sessionExpiryInterval: 3600 } };
    const subscribe = async (properties = lasting.properties) => {
      const raw = await gateway.dial(device);
      await raw.connack({ ...lasting, properties });
      raw.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: commandsOf(device.name), qos: 1 }] });
      await raw.next('suback');
      raw.socket.destroy();
      await expect.poll(async () => (await sessionsOf(device.deviceId))[0]?.closedAt).not.toBeNull();
    };
    const present = async (options = {}) => {
      const raw = await gateway.dial(device);
      const connack = await raw.connack({ ...lasting, ...options });
      raw.socket.destroy();
      await expect.poll(async () => (await sessionsOf(device.deviceId))[0]?.closedAt).not.toBeNull();
      return connack?.sessionPresent;
    };
    await subscribe();
    expect(await present()).toBe(true);
    expect(await present({ clean: true })).toBe(false);
    expect(await present()).toBe(false);
    await subscribe();
    const past = new Date(Date.now() - 4_000_000);
    await database.db.update(sessions).set({ closedAt: past }).where(eq(sessions.deviceId, device.deviceId));
    expect(await present()).toBe(false);
    await subscribe({ sessionExpiryInterval: 0 });
    expect(await present()).toBe(false);
  });

  test('lasts no longer than the server allows, and MQTT 5 is told', async () => {
    const device = await fleet.makeDevice();
    const raw = await gateway.dial(device);
    const connack = await raw.connack({ clientId: 'for ever', properties: { sessionExpiryInterval: 0xffffffff } });
    expect(connack?.properties).toMatchObject({ sessionExpiryInterval: 604_800 });
    expect(await sessionsOf(device.deviceId)).toMatchObject([{ expirySeconds: 604_800 }]);
  });

  test('may be ended by the DISCONNECT of its client', async () => {
    const device = await fleet.makeDevice();
    const raw = await gateway.dial(device);
    await raw.connack({ clientId: 'ends', properties: { sessionExpiryInterval: 3600 } });
    raw.send({ cmd: 'disconnect', reasonCode: 0, properties: { sessionExpiryInterval: 0 } });
    await raw.closed;
    const closed = { expirySeconds: 0, reason: 'CLIENT_INITIATED_DISCONNECT' };
    await expect.poll(() => sessionsOf(device.deviceId)).toMatchObject([closed]);
  });
});

describe('a client id', () => {
  test('belongs to its identity: nobody displaces another', async () => {
    const [one, two] = [await fleet.makeDevice(), await fleet.makeDevice()];
    const first = await gateway.dial(one);
    await first.connack({ clientId: 'same' });
    const second = await gateway.dial(two);
    await second.connack({ clientId: 'same' });
    first.send({ cmd: 'pingreq' });
    expect(await first.next('pingresp')).toBeDefined();
  });

  test('of a claim certificate is that of one connection: the devices of a line do not displace each other', async () => {
    const claim = await fleet.makeClaim();
    const line = await Promise.all([1, 2, 3].map(() => gateway.dial(claim)));
    for (const raw of line) expect(await raw.connack({ clientId: 'line' })).toMatchObject({ reasonCode: 0 });
    for (const raw of line) raw.send({ cmd: 'pingreq' });
    for (const raw of line) expect(await raw.next('pingresp')).toBeDefined();
  });

  test('that connects again takes its session over, which the older connection is told', async () => {
    const device = await fleet.makeDevice();
    const first = await gateway.dial(device);
    await first.connack({ clientId: 'moves' });
    const [before] = hold(device.deviceId);
    const second = await gateway.dial(device);
    await second.connack({ clientId: 'moves' });
    expect(await first.next('disconnect')).toMatchObject({ reasonCode: 0x8e });
    await first.closed;
    expect(hold(device.deviceId)).toHaveLength(1);
    expect(hold(device.deviceId)[0]?.epoch).toBeGreaterThan(before?.epoch ?? Infinity);
    expect(await sessionsOf(device.deviceId)).toMatchObject([{ closedAt: null, reason: null }]);
  });

  test.each([
    ['at once with a hint', localWire],
    ['by its sweep when every hint is lost', deafWire],
  ])('that moves to another gateway is let go by the first %s', async (_, makeWire) => {
    const wire = makeWire();
    await using one = await startTestGateway(fleet, { wire, sweepEveryMs: 500 });
    await using two = await startTestGateway(fleet, { wire, sweepEveryMs: 500 });
    const device = await fleet.makeDevice();
    const first = await one.dial(device);
    const lasting = { clientId: 'roams', clean: false, properties: { sessionExpiryInterval: 60 } };
    await first.connack(lasting);
    first.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: commandsOf(device.name), qos: 1 }] });
    await first.next('suback');
    const second = await two.dial(device);
    expect(await second.connack(lasting)).toMatchObject({ sessionPresent: true });
    expect(await first.next('disconnect')).toMatchObject({ reasonCode: 0x8e });
    await expect.poll(() => one.listener.held()).toEqual([]);
    expect(await sessionsOf(device.deviceId)).toMatchObject([{ gatewayId: two.id, closedAt: null }]);
  });

  test('that dials fifty times at once ends up with one session, open and held', async () => {
    const device = await fleet.makeDevice();
    await using other = await startTestGateway(fleet);
    const raws = await Promise.all(Array.from({ length: 50 }, (_, i) => (i % 2 ? gateway : other).dial(device)));
    await Promise.all(raws.map((raw) => raw.connack({ clientId: 'storm' })));
    await expect
      .poll(
        () => {
          return raws.filter(({ socket }) => !socket.destroyed).length;
        },
        { timeout: 20_000 },
      )
      .toBeLessThanOrEqual(2);
    const [row] = await sessionsOf(device.deviceId);
    const held = [...gateway.listener.held(), ...other.listener.held()].filter(({ clientId }) => clientId === 'storm');
    expect(held.map(({ epoch }) => epoch)).toContain(row?.epoch);
    expect(row?.closedAt).toBeNull();
  });
});

describe('the first connection with a certificate', () => {
  test('activates it, ends the enrolment, tells its workflow, and is in the audit once', async () => {
    const device = await fleet.makeDevice({ state: 'PENDING_ACTIVATION', deviceState: 'REGISTERED' });
    const claim = await fleet.makeClaim();
    const key = randomBytes(16).toString('hex');
    await database.db.insert(enrolments).values({
      id: randomUUIDv7(),
      key,
      claimId: claim.claimId,
      template: claim.template,
      deviceId: device.deviceId,
      certificateId: device.certificateId,
      state: 'REGISTERED',
      closesAt: new Date(Date.now() + 3_600_000),
    });
    const raws = await Promise.all([1, 2, 3].map(() => gateway.dial(device)));
    const connacks = await Promise.all(raws.map((raw, n) => raw.connack({ clientId: `first ${n}` })));
    expect(connacks.map((connack) => connack?.reasonCode)).toEqual([0, 0, 0]);

    const [certificate] = await database.db
      .select()
      .from(certificates)
      .where(eq(certificates.id, device.certificateId));
    expect(certificate).toMatchObject({ state: 'ACTIVE', activatedAt: expect.any(Date) });
    expect(await database.db.select().from(devices).where(eq(devices.id, device.deviceId))).toMatchObject([
      { state: 'ACTIVE' },
    ]);
    expect(await database.db.select().from(enrolments).where(eq(enrolments.key, key))).toMatchObject([
      { state: 'ACTIVATED' },
    ]);
    const told = await database.db
      .select()
      .from(outbox)
      .where(eq(outbox.workflowId, `provision-device/${key}`));
    expect(told).toMatchObject([
      {
        kind: 'signal',
        name: 'deviceConnected',
        argument: { certificateId: device.certificateId, deviceName: device.name },
      },
    ]);
    expect(await auditOf('certificate.activated', `certificate/${device.certificateId}`)).toHaveLength(1);
  });
});

describe('a certificate', () => {
  test.each([
    ['revoked', { state: 'REVOKED' }, 'CertificateRevoked'],
    ['of a blocked device', { deviceState: 'BLOCKED' }, 'DeviceBlocked'],
    ['over', { notAfter: new Date(Date.now() - 1_000) }, 'CertificateExpired'],
  ] as const)('that is %s is refused, which the audit keeps', async (_, options, code) => {
    const device = await fleet.makeDevice(options);
    const four = await gateway.dial(device, { protocol: 4 });
    expect(await four.connack()).toMatchObject({ returnCode: 5 });
    const five = await gateway.dial(device);
    expect(await five.connack()).toMatchObject({ reasonCode: 0x87 });
    const entries = () => auditOf('connection.refused', `certificate/${device.certificateId}`);
    await expect.poll(entries, { timeout: 5_000 }).toMatchObject([{ data: { code } }, { data: { code } }]);
  });

  test('that has no row, or no device yet, is refused', async () => {
    const [unknown, unbound] = [await fleet.makeDevice(), await fleet.makeDevice({ state: 'PENDING_ACTIVATION' })];
    await database.db.delete(certificates).where(eq(certificates.id, unknown.certificateId));
    await database.db.update(certificates).set({ deviceId: null }).where(eq(certificates.id, unbound.certificateId));
    for (const device of [unknown, unbound]) {
      const raw = await gateway.dial(device);
      expect(await raw.connack()).toMatchObject({ reasonCode: 0x87 });
    }
  });

  test.each(['localWire', 'deafWire'])(
    'that is revoked loses its connections within seconds (%s)',
    async (wireName) => {
      const wire = wireName === 'localWire' ? localWire() : deafWire();
      await using own = await startTestGateway(fleet, { wire });
      const [device, neighbour, claim] = [await fleet.makeDevice(), await fleet.makeDevice(), await fleet.makeClaim()];
      const raws = await Promise.all([device, neighbour, claim].map((credentials) => own.dial(credentials)));
      for (const raw of raws) await raw.connack();
      const [revoked, untouched, line] = raws;
      await database.db.transaction(async (tx) => {
        await tx.update(certificates).set({ state: 'REVOKED' }).where(eq(certificates.id, device.certificateId));
        await tx.update(claims).set({ revokedAt: new Date() }).where(eq(claims.id, claim.claimId));
        await tx.insert(feed).values([
          { kind: 'certificate', subject: device.certificateId },
          { kind: 'claim', subject: claim.claimId },
          // Looked at again and found good: nothing happens.
          { kind: 'device', subject: neighbour.deviceId },
        ]);
      });
      wire.tell({ feed: true });
      const started = performance.now();
      await revoked?.closed;
      await line?.closed;
      expect(performance.now() - started).toBeLessThan(5_000);
      expect(revoked?.received.at(-1)).toMatchObject({ cmd: 'disconnect', reasonCode: 0x87 });
      untouched?.send({ cmd: 'pingreq' });
      expect(await untouched?.next('pingresp')).toBeDefined();
    },
  );

  test('that ends while it is connected ends its connection', async () => {
    const device = await fleet.makeDevice({ notAfter: new Date(Date.now() + 2_000) });
    const raw = await gateway.dial(device);
    expect(await raw.connack()).toMatchObject({ reasonCode: 0 });
    await raw.closed;
    await expect.poll(() => sessionsOf(device.deviceId)).toMatchObject([{ reason: 'AUTH_ERROR' }]);
  });
});

test('a drain tells the devices, closes their rows and marks the gateway', async () => {
  const own = await startTestGateway(fleet);
  const device = await fleet.makeDevice();
  const raw = await own.dial(device);
  await raw.connack({ clientId: 'drained' });
  await own.drain();
  expect(await raw.next('disconnect')).toMatchObject({ reasonCode: 0x8b });
  expect(await sessionsOf(device.deviceId)).toMatchObject([{ reason: 'SERVER_INITIATED_DISCONNECT' }]);
  await expect(own.dial(device).then((late) => late.connack())).resolves.toBeUndefined();
});
