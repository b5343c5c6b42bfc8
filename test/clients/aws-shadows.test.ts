import { randomBytes } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { audit } from '../../db/schema.ts';
import { readSoftware } from '../../db/software.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
import { dial311, dial5, type AwsClient, type Dialler } from './aws-device.ts';
import { shadowsV1, shadowsV2, type Shadows } from './aws-shadows.ts';

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

async function dialAs(dial: Dialler, credentials: { certificate: string; privateKey: string }) {
  const server = {
    host: '127.0.0.1',
    port: gateway.listener.port,
    serverName: 'localhost',
    ca: fleet.authority.rootPem,
  };
  return dial(server, { ...credentials, clientId: `test-${randomBytes(4).toString('hex')}`, cleanSession: true });
}
const listRefusals = async (name: string) => {
  const rows = await database.db
    .select()
    .from(audit)
    .where(eq(audit.subject, `device/${name}`));
  return rows.map(({ data }) => `${String(data['action'])} ${String(data['topic'])}`);
};
const versionsOf = async (deviceId: string) => {
  const { products } = (await readSoftware(database.db, [deviceId])).get(deviceId) ?? {};
  return [...(products ?? [])].map(([product, { version }]) => `${product} ${version}`);
};

const clients: [string, Dialler, (client: AwsClient) => Shadows][] = [
  ['V1 client over MQTT 3.1.1', dial311, shadowsV1],
  ['V1 client over MQTT 5', dial5, shadowsV1],
  ['V2 client over MQTT 3.1.1', dial311, shadowsV2],
  ['V2 client over MQTT 5', dial5, shadowsV2],
];

describe.each(clients)('the unmodified SDK, %s', (_, dial, open) => {
  test('says what it runs, reads it again, and is told why it is refused', async () => {
    const device = await fleet.makeDevice();
    await using client = await dialAs(dial, device);
    const shadows = open(client);
    await expect(shadows.read(device.name)).rejects.toMatchObject({ code: 404 });
    const accepted = await shadows.report(device.name, { app: { version: '1.2.3' }, boot: { version: '7' } });
    const state = { reported: { app: { version: '1.2.3' }, boot: { version: '7' } } };
    expect(accepted).toMatchObject({ state, version: 1, timestamp: expect.any(Number) });
    expect(await versionsOf(device.deviceId)).toEqual(['app 1.2.3', 'boot 7']);
    expect(await shadows.report(device.name, { app: { version: '1.3.0' }, boot: null }, 1)).toMatchObject({
      version: 2,
    });
    await expect(shadows.report(device.name, { app: { version: '9' } }, 7)).rejects.toMatchObject({ code: 409 });
    expect(await shadows.read(device.name)).toMatchObject({
      state: { reported: { app: { version: '1.3.0' } } },
      version: 2,
    });
    expect(await versionsOf(device.deviceId)).toEqual(['app 1.3.0']);
  });

  test('cannot speak for another device', async () => {
    const [device, other] = [await fleet.makeDevice(), await fleet.makeDevice()];
    await using client = await dialAs(dial, device);
    const topic = `$aws/things/${other.name}/shadow/name/$package/update`;
    await expect(client.subscribe(`${topic}/accepted`)).rejects.toThrow(/not granted|SUBSCRIBE|suback/i);
    // On MQTT 3.1.1 it never ends: the connection does, and the SDK tries again.
    client.publish(topic, { state: { reported: { app: { version: '6.6.6' } } } }).catch(() => {});
    await eventually(async () => (await listRefusals(device.name)).includes(`publish ${topic}`));
    expect(await versionsOf(other.deviceId)).toEqual([]);
    expect(await versionsOf(device.deviceId)).toEqual([]);
  });
});
