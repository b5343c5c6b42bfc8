import { once } from 'node:events';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { enrolments } from '../../db/enrolment-schema.ts';
import { certificates, commandTargets, devices } from '../../db/schema.ts';
import type { Attempt } from '../../embedded/device-attempts.ts';
import { createDevice, type Device, type DeviceOptions } from '../../embedded/device.ts';
import { deviceKey } from '../../gateway/identity.ts';
import { localWire } from '../../gateway/wire.ts';
import { makeCommand } from '../gateway/rows.ts';
import { openClient, runWorker } from '../gateway/temporal.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';

const wire = localWire();
const rig = new AsyncDisposableStack();
let database: TestDatabase;
let fleet: Fleet;
let gateway: GatewayRig;
beforeAll(async () => {
  database = rig.use(await makeDatabase());
  fleet = await createFleet(database.db);
  const temporal = rig.use(openClient(inject('temporal')));
  const { db, authority } = fleet;
  rig.use(await runWorker(inject('temporal'), temporal.taskQueue, { db, authority, wire }));
  gateway = rig.use(await startTestGateway(fleet, { wire, temporal }));
});
afterAll(() => rig.disposeAsync());

let made = 0;
/** A device fresh from the factory, with a folder of its own. */
async function makeDevice(options: Partial<DeviceOptions> = {}): Promise<Device & DeviceOptions> {
  const serial = `sim-${process.pid}-${(made += 1)}`;
  const all: DeviceOptions = {
    folder: join(inject('folder'), 'devices', serial),
    mqtt: { host: '127.0.0.1', port: gateway.listener.port, serverName: 'localhost', ca: fleet.authority.rootPem },
    claim: await fleet.makeClaim(),
    template: 'default',
    parameters: { serial },
    backOffMs: 20,
    ...options,
  };
  return { ...all, ...rig.use(createDevice(all)) };
}

async function makeConnected(options: Partial<DeviceOptions> = {}) {
  const device = await makeDevice(options);
  device.start();
  await once(device.events, 'connected');
  return device;
}

const idOf = async (device: Device): Promise<string> => {
  const [row] = await database.db
    .select()
    .from(devices)
    .where(eq(devices.name, device.name() ?? ''));
  return row?.id ?? '';
};

/** Sends a command as the API does, and gives its execution. */
async function send(device: Device, payload: unknown): Promise<string> {
  const { executionIds } = await makeCommand(database.db, [{ name: device.name() ?? '' }], {
    payload: JSON.stringify(payload),
  });
  wire.tell({ orders: [await idOf(device)] });
  return executionIds[0] ?? '';
}

const targetOf = async (executionId: string) => {
  const [row] = await database.db.select().from(commandTargets).where(eq(commandTargets.executionId, executionId));
  return row;
};
/** Fails the test unless the execution comes to stand like this. */
const expectTarget = (executionId: string, as: object) =>
  eventually(async () => expect(await targetOf(executionId)).toMatchObject(as));

describe('a simulated device', () => {
  test.each([4, 5] as const)(
    'enrols once, and then lives by its own certificate (MQTT %s)',
    async (protocolVersion) => {
      const device = await makeConnected({ protocolVersion });
      const { folder, parameters } = device;
      expect(device.name()).toBe(`pump-${parameters['serial']}`);
      const own = () =>
        database.db
          .select()
          .from(certificates)
          .where(eq(certificates.subject, device.name() ?? ''));
      await eventually(async () => expect(await own()).toMatchObject([{ state: 'ACTIVE', kind: 'device' }]));
      await device.stop();

      const again = await makeConnected({
        folder,
        claim: { certificate: 'none', privateKey: 'none' },
        protocolVersion,
      });
      expect(again.name()).toBe(device.name());
      const row = { deviceId: await idOf(device) };
      expect(await database.db.select().from(enrolments).where(eq(enrolments.deviceId, row.deviceId))).toHaveLength(1);
    },
  );

  test('keeps its secrets to itself', async () => {
    const { folder } = await makeConnected();
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    const files = readdirSync(folder);
    expect(files).toEqual(expect.arrayContaining(['private-key.pem', 'certificate.pem', 'device.json']));
    for (const file of files) expect([file, statSync(join(folder, file)).mode & 0o777]).toEqual([file, 0o600]);
  });

  test('does what it is told, and says how it went', async () => {
    const device = await makeConnected();
    const received: string[] = [];
    device.events.on('received', (executionId) => received.push(executionId));
    const echo = await send(device, { operation: 'echo', message: 'hello' });
    const fail = await send(device, { operation: 'fail', reason: 'no oil' });
    const reject = await send(device, { operation: 'reject' });
    const other = await send(device, { action: 'reboot' });
    await expectTarget(echo, { status: 'SUCCEEDED', statusBy: 'device', result: { message: { s: 'hello' } } });
    await expectTarget(fail, { status: 'FAILED', reasonCode: 'NO_OIL' });
    await expectTarget(reject, { status: 'REJECTED' });
    await expectTarget(other, { status: 'SUCCEEDED' });
    expect(received).toEqual([echo, fail, reject, other]);
  });

  test('says again how an execution went that it is asked for twice, and does not run it twice', async () => {
    const device = await makeConnected();
    const received: string[] = [];
    device.events.on('received', (executionId) => received.push(executionId));
    const executionId = await send(device, { operation: 'echo' });
    await expectTarget(executionId, { status: 'SUCCEEDED' });

    await device.stop();
    device.start();
    await once(device.events, 'connected');
    const topic = `$aws/commands/things/${device.name()}/executions/${executionId}/request/json`;
    const reported = once(device.events, 'reported');
    await gateway.listener.notify(deviceKey(await idOf(device)), { topic, payload: Buffer.from('{}'), qos: 1 });
    expect(await reported).toEqual([executionId, 'SUCCEEDED']);
    expect(received).toEqual([executionId]);
  });

  test('reports work that its restart has cut as failed', async () => {
    const device = await makeConnected();
    const received: string[] = [];
    device.events.on('received', (id) => received.push(id));
    const executionId = await send(device, { operation: 'sleep', seconds: 60 });
    await expectTarget(executionId, { status: 'IN_PROGRESS' });
    await device.stop();
    device.start();
    await expectTarget(executionId, { status: 'FAILED', reasonCode: 'INTERRUPTED' });
    expect(received).toEqual([executionId]);
  });

  test('hears what was sent while it was out of reach, and reports what it finished there', async () => {
    const device = await makeConnected();
    const long = await send(device, { operation: 'sleep', seconds: 0.3 });
    await expectTarget(long, { status: 'IN_PROGRESS' });
    device.goOffline();
    await once(device.events, 'disconnected');
    const late = await send(device, { operation: 'echo', message: 'late' });
    expect(device.connected()).toBe(false);
    device.goOnline();
    await expectTarget(late, { status: 'SUCCEEDED', result: { message: { s: 'late' } } });
    await expectTarget(long, { status: 'SUCCEEDED' });
  });

  test.each([4, 5] as const)('that loses half of what it says gets there all the same (MQTT %s)', async (protocol) => {
    const device = await makeConnected({ protocolVersion: protocol });
    const received: string[] = [];
    device.events.on('received', (executionId) => received.push(executionId));
    device.behave({ lossy: 0.5 });
    const executions: string[] = [];
    for (let count = 0; count < 5; count += 1) executions.push(await send(device, { operation: 'echo' }));
    await eventually(() => received.length === 5, { withinMs: 20_000 });
    device.behave({ lossy: 0 });
    for (const executionId of executions) await expectTarget(executionId, { status: 'SUCCEEDED' });
    expect(received.toSorted()).toEqual(executions.toSorted());
  });

  test.each([4, 5] as const)('that is hostile gets nowhere with the topics of another (MQTT %s)', async (protocol) => {
    const victim = await makeConnected();
    const secret = await send(victim, { operation: 'sleep', seconds: 60 });
    await expectTarget(secret, { status: 'IN_PROGRESS' });
    const hostile = await makeConnected({ protocolVersion: protocol });
    const attempts: Attempt[] = [];
    hostile.events.on('attempted', (attempt) => attempts.push(attempt));
    hostile.behave({ hostileTo: victim.name() ?? '' });
    await eventually(() => attempts.length === 7, { withinMs: 20_000 });
    expect(attempts.filter(({ outcome }) => outcome === 'allowed')).toEqual([]);
    expect(await targetOf(secret)).toMatchObject({ status: 'IN_PROGRESS' });
    expect(victim.connected()).toBe(true);
  });
});
