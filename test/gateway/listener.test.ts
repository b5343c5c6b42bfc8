import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { eq } from 'drizzle-orm';
import type { IPublishPacket } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { certificates } from '../../db/schema.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

const run = promisify(execFile);

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

const responseTopic = (name: string, execution = '0190a0a0-0000-7000-8000-000000000000') =>
  `$aws/commands/things/${name}/executions/${execution}/response/json`;
const publishTo = (topic: string, packet: Partial<IPublishPacket> = {}): IPublishPacket => ({
  cmd: 'publish',
  topic,
  payload: '{"status":"SUCCEEDED"}',
  qos: 1,
  messageId: 7,
  dup: false,
  retain: false,
  ...packet,
});

describe('the handshake', () => {
  test.each([[['x-amzn-mqtt-ca']], [['mqtt']], [undefined]])('takes ALPN %s', async (ALPNProtocols) => {
    const raw = await gateway.dial(await fleet.makeDevice(), ALPNProtocols && { ALPNProtocols });
    expect(raw.socket.alpnProtocol).toBe(ALPNProtocols?.[0] ?? false);
    expect(await raw.connack()).toMatchObject({ reasonCode: 0 });
  });

  test.each([
    ['another protocol', { ALPNProtocols: ['h2'] }],
    ['TLS 1.1', { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' } as const],
  ])('fails with %s', async (_, options) => {
    const raw = await gateway.dial(await fleet.makeDevice(), options);
    expect(await raw.connack()).toBeUndefined();
  });

  test('fails without a certificate, and with one from a stranger', async () => {
    const stranger = await createStranger();
    for (const credentials of [{ certificateId: '', certificate: '', privateKey: '' }, stranger]) {
      const raw = await gateway.dial(credentials);
      expect(await raw.connack()).toBeUndefined();
    }
  });

  test('may be resumed, also on another gateway, and the row decides all the same', async () => {
    const ticketKeys = randomBytes(48);
    const tls = {
      ...fleet.server,
      authoritiesPem: [fleet.authority.rootPem, fleet.authority.certificatePem],
      ticketKeys,
    };
    await using one = await startTestGateway(fleet, { tls });
    await using two = await startTestGateway(fleet, { tls });
    const device = await fleet.makeDevice();
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const first = await one.dial(device, { maxVersion });
      await first.connack();
      await expect.poll(() => first.tickets.length).toBeGreaterThan(0);
      const again = { maxVersion, session: first.tickets.at(-1) };

      const resumed = await two.dial(device, again);
      expect(resumed.socket.isSessionReused()).toBe(true);
      expect(await resumed.connack()).toMatchObject({ reasonCode: 0 });

      await database.db.update(certificates).set({ state: 'REVOKED' }).where(eq(certificates.id, device.certificateId));
      const revoked = await two.dial(device, again);
      expect(revoked.socket.isSessionReused()).toBe(true);
      expect(await revoked.connack()).toMatchObject({ reasonCode: 0x87 });
      await database.db.update(certificates).set({ state: 'ACTIVE' }).where(eq(certificates.id, device.certificateId));
    }
  });

  test('is taken on a second port as well', async () => {
    await using both = await startTestGateway(fleet, { extraPort: 0 });
    const raw = await both.dial(await fleet.makeDevice(), { port: both.listener.extraPort });
    expect(await raw.connack()).toMatchObject({ reasonCode: 0 });
  });
});

describe('a client id', () => {
  test('that is empty is made up, and MQTT 5 is told which', async () => {
    const five = await gateway.dial(await fleet.makeDevice());
    const connack = await five.connack({ clientId: '' });
    const assigned = connack?.properties?.assignedClientIdentifier ?? '';
    expect(assigned.length).toBeGreaterThan(10);
    expect(gateway.listener.held().map(({ clientId }) => clientId)).toContain(assigned);

    const four = await gateway.dial(await fleet.makeDevice(), { protocol: 4 });
    expect(await four.connack({ clientId: '' })).toMatchObject({ returnCode: 0 });
  });

  test('that is empty is refused for a 3.1.1 session that shall last', async () => {
    const raw = await gateway.dial(await fleet.makeDevice(), { protocol: 4 });
    raw.socket.write(Buffer.from('100c00044d5154540400003c0000', 'hex'));
    expect(await raw.next('connack')).toMatchObject({ returnCode: 2 });
  });

  test.each(['a+b', 'a/#', 'nul\u0001', 'x'.repeat(129)])('%s is refused', async (clientId) => {
    const raw = await gateway.dial(await fleet.makeDevice());
    expect(await raw.connack({ clientId })).toMatchObject({ reasonCode: 0x85 });
  });
});

describe('a publish', () => {
  test('is answered to the connection that asked, subscribed or not, once', async () => {
    const device = await fleet.makeDevice();
    const client = await gateway.connect(device, { clientId: 'asks' });
    const bystander = await gateway.connect(device, { clientId: 'stands by' });
    const heard: string[] = [];
    client.on('message', (topic) => void heard.push(topic));
    bystander.on('message', (topic) => void heard.push(`bystander ${topic}`));
    await bystander.subscribeAsync(`$aws/commands/things/${device.name}/executions/+/response/+/json`, { qos: 1 });
    const rejected = responseTopic(device.name).replace('/json', '/rejected/json');

    await client.publishAsync(responseTopic(device.name), '{"status":"SUCCEEDED"}', { qos: 1 });
    await expect.poll(() => heard).toEqual([rejected]);
    await client.subscribeAsync(rejected, { qos: 1 });
    await client.publishAsync(responseTopic(device.name), '{"status":"SUCCEEDED"}', { qos: 1 });
    await expect.poll(() => heard).toEqual([rejected, rejected]);
    await client.publishAsync(responseTopic(device.name, 'last'), '{}', { qos: 1 });
    await expect.poll(() => heard.length).toBe(3);
    expect(heard.filter((topic) => topic.startsWith('bystander'))).toEqual([]);
  });

  test.each([
    ["another device's topic", '$aws/commands/things/other/executions/x/response/json', {}],
    ['a topic that nobody knows', 'sensors/one', {}],
    ['a provisioning topic, from a device', '$aws/certificates/create/json', {}],
    ['what is to be retained', undefined, { retain: true }],
  ])('of %s is denied: 0x87 in MQTT 5, the end in 3.1.1', async (_, topic, packet) => {
    const device = await fleet.makeDevice();
    const publish = publishTo(topic ?? responseTopic(device.name), packet);
    const five = await gateway.dial(device);
    await five.connack({ clientId: 'five' });
    five.send(publish);
    expect(await five.next('puback')).toMatchObject({ messageId: 7, reasonCode: 0x87 });
    five.send({ cmd: 'pingreq' });
    expect(await five.next('pingresp')).toBeDefined();

    const four = await gateway.dial(device, { protocol: 4 });
    await four.connack({ clientId: 'four' });
    four.send(publish);
    await four.closed;
    expect(four.received.map(({ cmd }) => cmd)).toEqual(['connack']);
  });

  test('of QoS 2 ends the connection with 0x9B, and a subscription of QoS 2 is granted QoS 1', async () => {
    const device = await fleet.makeDevice();
    const raw = await gateway.dial(device);
    await raw.connack();
    const topic = `$aws/commands/things/${device.name}/executions/+/request/json`;
    raw.send({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 2 }] });
    expect(await raw.next('suback')).toMatchObject({ granted: [1] });
    raw.send(publishTo(responseTopic(device.name), { qos: 2 }));
    expect(await raw.next('disconnect')).toMatchObject({ reasonCode: 0x9b });
  });
});

test('MQTT 3.1 is told that its version is not spoken', async () => {
  const raw = await gateway.dial(await fleet.makeDevice(), { protocol: 4 });
  raw.socket.write(Buffer.from('101300064d51497364700302003c000568656c6c6f', 'hex'));
  expect(await raw.next('connack')).toMatchObject({ returnCode: 1 });
});

test('a SUBSCRIBE is denied filter by filter', async () => {
  const device = await fleet.makeDevice();
  const own = `$aws/commands/things/${device.name}/executions/+/request/json`;
  const foreign = '$aws/commands/things/+/executions/+/request/json';
  for (const [protocol, code] of [
    [4, 0x80],
    [5, 0x87],
  ] as const) {
    const raw = await gateway.dial(device, { protocol });
    await raw.connack({ clientId: `v${protocol}` });
    const subscriptions = [own, foreign, '#'].map((topic) => ({ topic, qos: 1 as const }));
    raw.send({ cmd: 'subscribe', messageId: 1, subscriptions });
    expect(await raw.next('suback')).toMatchObject({ granted: [1, code, code] });
  }
});

test('mosquitto_pub gets its acknowledgement', async () => {
  const device = await fleet.makeDevice();
  const folder = await mkdtemp(join(tmpdir(), 'longhaul-'));
  const files = { cafile: fleet.authority.rootPem, cert: device.certificate, key: device.privateKey };
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  const flags = Object.keys(files).flatMap((name) => [`--${name}`, join(folder, name)]);
  const port = String(gateway.listener.port);
  for (const version of ['mqttv311', 'mqttv5']) {
    const target = [
      '-h',
      'localhost',
      '-p',
      port,
      '-V',
      version,
      '-q',
      '1',
      '-t',
      responseTopic(device.name),
      '-m',
      '{}',
    ];
    const { stderr } = await run('mosquitto_pub', [...target, ...flags]);
    expect(stderr).toBe('');
  }
  await rm(folder, { recursive: true });
});

async function createStranger() {
  await using own = await makeDatabase();
  return await (await createFleet(own.db)).makeDevice();
}
