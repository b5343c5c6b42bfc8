import { randomUUIDv7 } from 'node:crypto';
import { and, eq, isNotNull } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { lockDeviceNamed } from '../../db/devices.ts';
import { decommissions } from '../../db/revocation-schema.ts';
import { deviceSoftware, executions, groupMembers, groups } from '../../db/rollout-schema.ts';
import { softwareRevisions } from '../../db/rollout-schema.ts';
import { audit, certificates, commandTargets, devices, gateways, orders } from '../../db/schema.ts';
import { outbox, presence, presenceChecks, sessions } from '../../db/schema.ts';
import { localWire } from '../../gateway/wire.ts';
import { decommissionDevice, decommissionDeviceId } from '../../workflows/decommission-device.ts';
import { runRolloutId } from '../../workflows/run-rollout.ts';
import { sendCommandId } from '../../workflows/send-command.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
import { recordHistory } from '../support/histories.ts';
import { startLifecycle, type LifecycleRig } from '../support/lifecycle.ts';
import { countVerdicts, makeLedger, makeRollout } from '../support/rollouts.ts';
import { makeCommand } from '../gateway/rows.ts';

let database: TestDatabase;
let fleet: Fleet;
let gateway: GatewayRig;
let lifecycle: LifecycleRig;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  const wire = localWire();
  gateway = await startTestGateway(fleet, { wire });
  api = await makeApi(database.db, { authority: fleet.authority, wire });
  lifecycle = await startLifecycle(fleet);
});
afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  await lifecycle[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

type Device = Awaited<ReturnType<Fleet['makeDevice']>>;
const ask = ({ name }: Device) => api.ask('POST', `/v1/devices/${name}/decommission`);
/** The lifecycle, started as the relay starts it. */
const start = ({ deviceId, name }: Device) =>
  lifecycle.client.workflow.start(decommissionDevice, {
    workflowId: decommissionDeviceId(deviceId),
    taskQueue: lifecycle.taskQueue,
    args: [{ deviceId, device: name }],
  });
const findDevice = async ({ deviceId }: Device) =>
  (await database.db.select().from(devices).where(eq(devices.id, deviceId)))[0];

/** A device that has done, and still has to do, everything that a device does. */
async function makeBusyDevice() {
  const { db } = database;
  const device = await fleet.makeDevice();
  const { deviceId, name } = device;
  await db
    .update(devices)
    .set({ attributes: { owner: 'somebody', hardware: 'rev-a' } })
    .where(eq(devices.id, deviceId));
  await db.insert(softwareRevisions).values({ deviceId, revision: 1 });
  await db.insert(deviceSoftware).values({ deviceId, product: 'pump', version: '1.0.0' });
  const groupId = randomUUIDv7();
  await db.insert(groups).values({ id: groupId, name: `group-${name}` });
  await db.insert(groupMembers).values({ groupId, deviceId });
  const [open, done] = [await makeCommand(db, [device]), await makeCommand(db, [device])];
  const answer = { status: 'SUCCEEDED' as const, result: { address: 'home' } };
  await db.update(commandTargets).set(answer).where(eq(commandTargets.commandId, done.id));
  const rolloutId = await makeRollout(db, { plan: { targets: { filter: `name==${name}`, continuous: false } } });
  const ledger = makeLedger(database);
  await ledger.enlist(rolloutId);
  await ledger.review(rolloutId);
  await db
    .update(executions)
    .set({ details: { place: 'home' } })
    .where(eq(executions.deviceId, deviceId));
  return { ...device, rolloutId, ledger, openCommand: open.id, doneCommand: done.id };
}

describe('a device that is decommissioned', () => {
  test('is denied, cut off and revoked, has its work ended with a verdict, and nothing is left but its name and the audit', async () => {
    const { db } = database;
    const device = await makeBusyDevice();
    const { deviceId, name, rolloutId } = device;
    const raw = await gateway.dial(device);
    await raw.connack();
    const answer = await ask(device);
    expect(answer).toMatchObject({ status: 202, body: { state: 'BLOCKED', decommissionedAt: expect.any(String) } });
    const workflow = await start(device);
    expect(await workflow.result()).toBe('DECOMMISSIONED');
    await recordHistory(workflow, 'decommissionDevice-erased');
    await raw.closed;

    const [certificate] = await db.select().from(certificates).where(eq(certificates.id, device.certificateId));
    expect(certificate).toMatchObject({ state: 'REVOKED', revocationReason: 'cessationOfOperation' });
    expect(certificate?.listNumber).not.toBeNull();
    expect(await (await gateway.dial(device)).connack()).toMatchObject({ reasonCode: 0x87 });

    const [execution] = await db.select().from(executions).where(eq(executions.deviceId, deviceId));
    expect(execution).toMatchObject({ status: 'REMOVED', details: {}, endedAt: expect.any(Date) });
    const poked = await db.select().from(outbox).where(eq(outbox.kind, 'signal'));
    expect(poked.map(({ workflowId }) => workflowId)).toEqual(
      expect.arrayContaining([runRolloutId(rolloutId), sendCommandId(device.openCommand)]),
    );
    await device.ledger.review(rolloutId);
    expect(await countVerdicts(db, rolloutId)).toEqual({ REMOVED: 1 });
    const targets = await db.select().from(commandTargets).where(eq(commandTargets.deviceId, deviceId));
    expect(new Map(targets.map(({ commandId, status, result }) => [commandId, [status, result]]))).toEqual(
      new Map([
        [device.openCommand, ['CANCELED', null]],
        [device.doneCommand, ['SUCCEEDED', null]],
      ]),
    );

    expect(await findDevice(device)).toMatchObject({ name, state: 'BLOCKED', attributes: {}, template: null });
    for (const table of [deviceSoftware, softwareRevisions, groupMembers, presence, presenceChecks, sessions, orders]) {
      expect(await db.select().from(table).where(eq(table.deviceId, deviceId))).toEqual([]);
    }
    const entries = await db
      .select()
      .from(audit)
      .where(eq(audit.subject, `device/${name}`))
      .orderBy(audit.id);
    expect(entries.map(({ action }) => action)).toEqual(['device.decommissioned', 'device.erased']);
    expect(entries[1]?.data).toMatchObject({
      unheard: [],
      erased: { attributes: 1, software: 1, groups: 1, sessions: 1 },
    });
  });

  test('keeps its name, whatever its case, and is never let in, changed or given work again', async () => {
    const device = await fleet.makeDevice();
    await ask(device);
    await (await start(device)).result();
    const { name } = device;
    const upper = name.toUpperCase();
    expect((await api.ask('POST', '/v1/devices', { name: upper })).status).toBe(409);
    const locked = await database.db.transaction((tx) => lockDeviceNamed(tx, upper));
    expect(locked).toMatchObject({ blocked: true });
    expect((await api.ask('POST', `/v1/devices/${name}/unblock`)).status).toBe(409);
    expect((await api.ask('PATCH', `/v1/devices/${name}`, { attributes: { owner: 'x' } })).status).toBe(404);
    expect((await api.ask('POST', '/v1/commands', { targets: name, payload: {} })).status).toBe(422);
    expect(await findDevice(device)).toMatchObject({ state: 'BLOCKED', attributes: {} });
  });

  test('asked for again, at the same time or later, is decommissioned once', async () => {
    const device = await fleet.makeDevice();
    const answers = await Promise.all(Array.from({ length: 8 }, () => ask(device)));
    expect(await (await start(device)).result()).toBe('DECOMMISSIONED');
    answers.push(await ask({ ...device, name: device.name.toUpperCase() }));
    // Another run, as after Temporal's store was lost, finds everything done.
    expect(await (await start(device)).result()).toBe('DECOMMISSIONED');
    const same = answers.map(({ status, body }) => `${status} ${body.lifecycle.workflowId} ${body.state}`);
    expect(new Set(same).size).toBe(1);
    const isIts = eq(outbox.workflowId, decommissionDeviceId(device.deviceId));
    expect(await database.db.select().from(outbox).where(isIts)).toHaveLength(1);
    const entries = await database.db
      .select()
      .from(audit)
      .where(eq(audit.subject, `device/${device.name}`));
    expect(entries).toHaveLength(2);
  });

  test('is not erased before a gateway that is away has come back or was found dead', async () => {
    const { db } = database;
    const id = randomUUIDv7();
    await db.insert(gateways).values({ id, address: 'nowhere:1' });
    const device = await makeBusyDevice();
    await ask(device);
    const workflow = await start(device);
    await eventually(async () => {
      const { events: history } = await workflow.fetchHistory();
      return (history ?? []).filter(({ timerStartedEventAttributes }) => timerStartedEventAttributes).length > 2;
    });
    expect(await findDevice(device)).toMatchObject({ state: 'BLOCKED', attributes: { owner: 'somebody' } });
    await db.update(gateways).set({ stoppedAt: new Date() }).where(eq(gateways.id, id));
    expect(await workflow.result()).toBe('DECOMMISSIONED');
    expect(await findDevice(device)).toMatchObject({ attributes: {} });
    const isEnded = and(eq(decommissions.deviceId, device.deviceId), isNotNull(decommissions.finishedAt));
    expect(await db.select().from(decommissions).where(isEnded)).toHaveLength(1);
  });

  test('that nobody knows is not there', async () => {
    expect((await api.ask('POST', '/v1/devices/nobody/decommission')).status).toBe(404);
  });
});
