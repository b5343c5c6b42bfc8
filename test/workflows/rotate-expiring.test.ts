import { randomUUIDv7 } from 'node:crypto';
import { eq, inArray, sql } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { rotationPolicyActivities } from '../../activities/rotation-policies.ts';
import { rotations } from '../../db/rotation-schema.ts';
import { authorities, certificates, outbox } from '../../db/schema.ts';
import { findRotationPolicy, putRotationPolicy } from '../../db/rotation-policies.ts';
import { putSchedule } from '../../workers/rotation-schedules.ts';
import { rotateExpiring, rotateExpiringId } from '../../workflows/rotate-expiring.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';
import { recordHistory } from '../support/histories.ts';
import { startLifecycle, type LifecycleRig } from '../support/lifecycle.ts';

let database: TestDatabase;
let fleet: Fleet;
let lifecycle: LifecycleRig;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  lifecycle = await startLifecycle(fleet);
});
afterAll(async () => {
  await lifecycle[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const dayMs = 86_400_000;
/** Devices whose certificate is this far in a life of 90 days. */
async function makeAged(count: number, days: number): Promise<string[]> {
  const made = await Promise.all(Array.from({ length: count }, () => fleet.makeDevice()));
  const notBefore = new Date(Date.now() - days * dayMs);
  const ids = made.map(({ certificateId }) => certificateId);
  await database.db
    .update(certificates)
    .set({ notBefore, notAfter: new Date(notBefore.getTime() + 90 * dayMs) })
    .where(inArray(certificates.id, ids));
  return made.map(({ deviceId }) => deviceId);
}
const openOf = async (deviceIds: string[]) =>
  database.db.select().from(rotations).where(inArray(rotations.deviceId, deviceIds));

test('what is due is begun page by page, once, and what is not due or paused is left', async () => {
  const due = await makeAged(5, 66);
  const young = await makeAged(3, 50);
  const policy = await findRotationPolicy(database.db, 'default');
  if (!policy) throw new Error('the default policy is there from the start');
  await putRotationPolicy(database.db, 'api-key/test', { ...policy, perMinute: 2 });
  const run = (workflowId: string) =>
    lifecycle.client.workflow.start(rotateExpiring, {
      workflowId,
      taskQueue: lifecycle.taskQueue,
      args: [{ policy: 'default', paceMs: 10 }],
    });
  const workflow = await run(rotateExpiringId(randomUUIDv7()));
  expect(await workflow.result()).toBe(5);
  await recordHistory(workflow, 'rotateExpiring-begun');
  expect(await openOf([...due, ...young])).toHaveLength(5);
  expect(await (await run(rotateExpiringId(randomUUIDv7()))).result()).toBe(0);
  const starts = await database.db.select().from(outbox).where(eq(outbox.name, 'rotateCertificate'));
  expect(starts).toHaveLength(5);
  await putRotationPolicy(database.db, 'api-key/test', { ...policy, paused: true });
  await makeAged(1, 80);
  expect(await (await run(rotateExpiringId(randomUUIDv7()))).result()).toBe(0);
  await putRotationPolicy(database.db, 'api-key/test', policy);
});

test('no more are under way at once than the policy lets, and a template may have a policy of its own', async () => {
  await database.db.delete(rotations);
  await database.db.execute(sql`update certificates set state = 'REVOKED'`);
  const due = await makeAged(4, 70);
  const own = `line-${randomUUIDv7().slice(-6)}`;
  await database.db.execute(sql`update devices set template = ${own} where id = ${due[0]}`);
  const policy = await findRotationPolicy(database.db, 'default');
  if (!policy) throw new Error('the default policy is there from the start');
  await putRotationPolicy(database.db, 'api-key/test', { ...policy, atOnce: 2 });
  await putRotationPolicy(database.db, 'api-key/test', { ...policy, name: own });
  const { beginDueRotations } = rotationPolicyActivities(database);
  expect((await beginDueRotations({ policy: 'default' })).count).toBe(2);
  expect((await beginDueRotations({ policy: 'default' })).count).toBe(0);
  expect((await beginDueRotations({ policy: own })).count).toBe(1);
  expect(await openOf(due)).toHaveLength(3);
  await putRotationPolicy(database.db, 'api-key/test', policy);
});

test('devices whose authority issues no more are due at once, whatever their age', async () => {
  const young = await makeAged(2, 1);
  await database.db.update(authorities).set({ state: 'RETIRED' }).where(eq(authorities.id, fleet.authority.id));
  const { beginDueRotations } = rotationPolicyActivities(database);
  await beginDueRotations({ policy: 'default' });
  expect((await openOf(young)).map(({ reason }) => reason)).toEqual(['authority', 'authority']);
  await database.db.update(authorities).set({ state: 'ACTIVE' }).where(eq(authorities.id, fleet.authority.id));
});

test('a policy is one schedule, which follows its row', async () => {
  const policy = await findRotationPolicy(database.db, 'default');
  if (!policy) throw new Error('the default policy is there from the start');
  const name = `line-${randomUUIDv7().slice(-6)}`;
  await putSchedule(lifecycle, { ...policy, name });
  await putSchedule(lifecycle, { ...policy, name, everyMinutes: 5, paused: true });
  const schedule = lifecycle.client.schedule.getHandle(rotateExpiringId(name));
  const { spec, policies, state } = await schedule.describe();
  expect(spec.intervals).toMatchObject([{ every: 300_000 }]);
  expect(policies).toMatchObject({ overlap: 'SKIP', catchupWindow: 600_000 });
  expect(state.paused).toBe(true);
  await schedule.delete();
});

test('the API shows and sets policies, runs them, and rotates one device, once', async () => {
  const api = await makeApi(database.db, { authority: fleet.authority });
  const device = await fleet.makeDevice();
  const first = await api.ask('POST', `/v1/devices/${device.name}/rotations`);
  expect(first).toMatchObject({
    status: 202,
    body: { state: 'BEGUN', lifecycle: { workflowId: `rotate-certificate/${device.name}` } },
  });
  expect((await api.ask('POST', `/v1/devices/${device.name}/rotations`)).body.id).toBe(first.body.id);
  expect((await api.ask('POST', '/v1/devices/nobody/rotations')).status).toBe(404);
  const put = await api.ask('PUT', '/v1/rotation-policies/pumps', { perMinute: 5 });
  expect(put).toMatchObject({ status: 200, body: { name: 'pumps', perMinute: 5, graceHours: 24 } });
  expect((await api.ask('GET', '/v1/rotation-policies/pumps')).body).toEqual(put.body);
  expect((await api.ask('PUT', '/v1/rotation-policies/pumps', { perMinute: 0 })).status).toBe(422);
  expect((await api.ask('POST', '/v1/rotation-policies/pumps/run')).status).toBe(202);
  expect((await api.ask('GET', '/v1/rotation-policies/none')).status).toBe(404);
});
