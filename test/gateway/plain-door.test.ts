import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { generate, parser, type Packet } from 'mqtt-packet';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, startTestGateway, type Credentials, type Fleet, type GatewayRig } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
let gateway: GatewayRig;
/** Whom the handed-in function takes the next connection for. */
let guest: Credentials | undefined;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  const identify = async () => guest && fingerprintOf(guest);
  gateway = await startTestGateway(fleet, { plainDoor: { port: 0, identify } });
});
afterAll(async () => {
  await gateway?.[Symbol.asyncDispose]();
  await database?.[Symbol.asyncDispose]();
});

const fingerprintOf = ({ certificate }: Credentials) =>
  createHash('sha256').update(new X509Certificate(certificate).raw).digest();

/** The answer to a CONNECT without TLS; undefined when the connection is closed instead. */
async function knock(socket: Socket, clientId: string): Promise<Packet | undefined> {
  const packets = parser({ protocolVersion: 5 });
  const first = new Promise<Packet>((resolve) => packets.once('packet', resolve));
  socket.on('data', (bytes: Buffer) => packets.parse(bytes));
  const connecting = { cmd: 'connect', protocolId: 'MQTT', protocolVersion: 5, clientId, clean: true } as const;
  socket.write(generate({ ...connecting, keepalive: 60 }, { protocolVersion: 5 }));
  const closed = once(socket, 'close').then(() => undefined);
  return Promise.race([first, closed]);
}

const dial = (port: number | undefined, host = '127.0.0.1') => connect({ host, port: port ?? 0 });

test('whoever comes through the plain door is judged by the row of the certificate that it is taken for', async () => {
  guest = await fleet.makeDevice();
  expect(await knock(dial(gateway.listener.plainPort), 'plain')).toMatchObject({ cmd: 'connack', reasonCode: 0 });
  guest = await fleet.makeDevice({ state: 'REVOKED' });
  expect(await knock(dial(gateway.listener.plainPort), 'revoked')).toMatchObject({ cmd: 'connack', reasonCode: 0x87 });
});

test('who is taken for nobody is turned away', async () => {
  guest = undefined;
  expect(await knock(dial(gateway.listener.plainPort), 'nobody')).toBeUndefined();
});

test('the plain door is on 127.0.0.1 alone, also where the gateway is on every address', async () => {
  await using open = await startTestGateway(fleet, {
    host: '0.0.0.0',
    plainDoor: { port: 0, identify: async () => undefined },
  });
  const elsewhere = dial(open.listener.port, '127.0.0.2');
  await once(elsewhere, 'connect');
  elsewhere.destroy();
  await expect(once(dial(open.listener.plainPort, '127.0.0.2'), 'connect')).rejects.toThrow('ECONNREFUSED');
});

test('without it nobody comes in without TLS', async () => {
  await using closed = await startTestGateway(fleet);
  expect(closed.listener.plainPort).toBeUndefined();
  expect(await knock(dial(closed.listener.port), 'plain')).toBeUndefined();
});

test('no program of the product opens one', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const programs = ['workers', 'api', 'bin', 'embedded', 'files'].flatMap((folder) =>
    readdirSync(`${root}/${folder}`, { recursive: true, encoding: 'utf8' }).map((name) => `${folder}/${name}`),
  );
  const openers = programs.filter(
    (path) => path.endsWith('.ts') && readFileSync(`${root}/${path}`, 'utf8').includes('plainDoor'),
  );
  expect(openers).toEqual([]);
});
