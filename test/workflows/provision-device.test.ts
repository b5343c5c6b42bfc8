import { createPublicKey, randomBytes } from 'node:crypto';
import { WithStartWorkflowOperation } from '@temporalio/client';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { enrolmentKey } from '../../db/enrolments.ts';
import { claims, enrolments } from '../../db/enrolment-schema.ts';
import { audit, certificates, devices, feed } from '../../db/schema.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { deviceConnected, provisionDevice, provisionDeviceId } from '../../workflows/provision-device.ts';
import {
  registerDevice,
  requestCertificate,
  type CertificateIssued,
  type ProvisionDevice,
} from '../../workflows/provision-device.ts';
import { findRefusal } from '../../workflows/refusals.ts';
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

const makePublicKey = () => createPublicKey(makeKeyPair().publicKeyPem).export({ type: 'spki', format: 'der' });
const makeSerial = () => randomBytes(5).toString('hex');

/** Asks for a certificate as a gateway does: the workflow is started, or the one that runs is asked. */
function ask(claimId: string, publicKey: Buffer, options: Partial<ProvisionDevice> = {}) {
  const workflowId = provisionDeviceId(enrolmentKey(claimId, publicKey));
  const request = { claimId, publicKey: publicKey.toString('base64'), ...options };
  const start = new WithStartWorkflowOperation(provisionDevice, {
    workflowId,
    taskQueue: lifecycle.taskQueue,
    args: [request],
    workflowIdConflictPolicy: 'USE_EXISTING',
  });
  const begun = lifecycle.client.workflow.executeUpdateWithStart(requestCertificate, { startWorkflowOperation: start });
  // Asked for a certificate alone, it gives one.
  const issued = begun as Promise<CertificateIssued>;
  return { issued, workflow: lifecycle.client.workflow.getHandle<typeof provisionDevice>(workflowId) };
}

const usesOf = async (claimId: string) =>
  (await database.db.select().from(claims).where(eq(claims.id, claimId)))[0]?.uses;

test('a device that asks, registers and connects is active, and the lifecycle ends', async () => {
  const { claimId, template } = await fleet.makeClaim();
  const { issued, workflow } = ask(claimId, makePublicKey());
  const { certificateId } = await issued;
  const serial = makeSerial();
  const registered = await workflow.executeUpdate(registerDevice, { args: [{ template, parameters: { serial } }] });
  expect(registered.deviceName).toBe(`pump-${serial}`);
  await workflow.signal(deviceConnected, { certificateId, deviceName: registered.deviceName });
  expect(await workflow.result()).toBe('ACTIVATED');
  await recordHistory(workflow, 'provisionDevice-activated');
  const [certificate] = await database.db.select().from(certificates).where(eq(certificates.id, certificateId));
  expect(certificate).toMatchObject({ subject: `pump-${serial}`, kind: 'device' });
});

test('eight equal requests at once make one certificate and use one slot', async () => {
  const { claimId } = await fleet.makeClaim();
  const publicKey = makePublicKey();
  const answers = await Promise.all(Array.from({ length: 8 }, () => ask(claimId, publicKey).issued));
  expect(new Set(answers.map(({ certificateId }) => certificateId)).size).toBe(1);
  expect(await usesOf(claimId)).toBe(1);
});

test('the same registration again is the same device, another one is refused', async () => {
  const { claimId, template } = await fleet.makeClaim();
  const { issued, workflow } = ask(claimId, makePublicKey());
  await issued;
  const registration = { template, parameters: { serial: makeSerial() } };
  const first = await workflow.executeUpdate(registerDevice, { args: [registration] });
  expect(await workflow.executeUpdate(registerDevice, { args: [registration] })).toEqual(first);
  const other = { template, parameters: { serial: makeSerial() } };
  const refused = workflow.executeUpdate(registerDevice, { args: [other] }).catch(findRefusal);
  expect(await refused).toMatchObject({ code: 'AlreadyRegistered', status: 409 });
});

test('a certificate that is not used in time is revoked, the slot is free again, and the key may come back', async () => {
  const { claimId, template } = await fleet.makeClaim({ usesMax: 1 });
  const publicKey = makePublicKey();
  const { issued, workflow } = ask(claimId, publicKey, { activateWithinMs: 300 });
  const { certificateId, enrolmentId } = await issued;
  const serial = makeSerial();
  await workflow.executeUpdate(registerDevice, { args: [{ template, parameters: { serial } }] }).catch(() => {});
  expect(await workflow.result()).toBe('LAPSED');
  await recordHistory(workflow, 'provisionDevice-lapsed');

  const [certificate] = await database.db.select().from(certificates).where(eq(certificates.id, certificateId));
  expect(certificate).toMatchObject({ state: 'REVOKED', revocationReason: 'neverUsed' });
  const [enrolment] = await database.db.select().from(enrolments).where(eq(enrolments.id, enrolmentId));
  expect(enrolment?.state).toBe('LAPSED');
  expect(await usesOf(claimId)).toBe(0);
  expect(await database.db.select().from(feed).where(eq(feed.subject, certificateId))).toHaveLength(1);
  const entries = await database.db
    .select()
    .from(audit)
    .where(eq(audit.subject, `enrolment/${enrolmentId}`));
  expect(entries.map(({ action }) => action)).toEqual(['enrolment.lapsed']);

  const again = ask(claimId, publicKey);
  expect((await again.issued).certificateId).not.toBe(certificateId);
  const name = await again.workflow.executeUpdate(registerDevice, { args: [{ template, parameters: { serial } }] });
  expect(name).toMatchObject({ deviceName: `pump-${serial}` });
});

test('an activation that comes with the deadline wins over the revocation', async () => {
  const { claimId } = await fleet.makeClaim();
  const { issued, workflow } = ask(claimId, makePublicKey(), { activateWithinMs: 300 });
  const { certificateId } = await issued;
  await database.db.update(certificates).set({ state: 'ACTIVE' }).where(eq(certificates.id, certificateId));
  expect(await workflow.result()).toBe('ACTIVATED');
  const [certificate] = await database.db.select().from(certificates).where(eq(certificates.id, certificateId));
  expect(certificate?.state).toBe('ACTIVE');
});

test('a lifecycle that is started again from its row after the hour ends what is overdue', async () => {
  const { claimId } = await fleet.makeClaim();
  const publicKey = makePublicKey();
  const { issued, workflow } = ask(claimId, publicKey);
  const { certificateId, enrolmentId } = await issued;
  await workflow.terminate('its store is lost');
  await database.db
    .update(enrolments)
    .set({ closesAt: new Date(0) })
    .where(eq(enrolments.id, enrolmentId));
  const again = await lifecycle.client.workflow.start(provisionDevice, {
    workflowId: workflow.workflowId,
    taskQueue: lifecycle.taskQueue,
    args: [{ claimId, publicKey: publicKey.toString('base64') }],
  });
  expect(await again.result()).toBe('LAPSED');
  const [certificate] = await database.db.select().from(certificates).where(eq(certificates.id, certificateId));
  expect(certificate?.state).toBe('REVOKED');
});

test.each([
  ['is used up', { uses: 100 }, 'ClaimExhausted'],
  ['is revoked', { revokedAt: new Date() }, 'ClaimRevoked'],
  ['has expired', { expiresAt: new Date(0) }, 'ClaimExpired'],
  ['is asked too often', { rateLeft: 0, ratePerMinute: 1 }, 'RateExceeded'],
])('a claim that %s issues nothing', async (_, change, code) => {
  const { claimId } = await fleet.makeClaim();
  await database.db.update(claims).set(change).where(eq(claims.id, claimId));
  const { issued, workflow } = ask(claimId, makePublicKey());
  expect(await issued.catch(findRefusal)).toMatchObject({ code });
  await expect(workflow.result()).rejects.toThrow('Workflow execution failed');
  expect(await database.db.select().from(enrolments).where(eq(enrolments.claimId, claimId))).toEqual([]);
});

test('a key that another device has is refused', async () => {
  const [first, second] = [await fleet.makeClaim(), await fleet.makeClaim()];
  const publicKey = makePublicKey();
  const { issued, workflow } = ask(first.claimId, publicKey);
  await issued;
  const parameters = { serial: makeSerial() };
  await workflow.executeUpdate(registerDevice, { args: [{ template: first.template, parameters }] });
  expect(await ask(second.claimId, publicKey).issued.catch(findRefusal)).toMatchObject({ code: 'KeyInUse' });
  expect(await usesOf(second.claimId)).toBe(0);
});

test.each([
  ['is enrolled', 'ACTIVE' as const, 'ACTIVE' as const],
  ['is blocked', 'BLOCKED' as const, undefined],
])('a name whose device %s is refused, whatever its case', async (_, deviceState, certificateState) => {
  const serial = makeSerial();
  const name = `PUMP-${serial}`;
  if (certificateState) await fleet.makeDevice({ name, deviceState, state: certificateState });
  else await database.db.insert(devices).values({ id: crypto.randomUUID(), name, state: deviceState });
  const { claimId, template } = await fleet.makeClaim();
  const { issued, workflow } = ask(claimId, makePublicKey());
  await issued;
  const registration = { template, parameters: { serial } };
  const refused = workflow.executeUpdate(registerDevice, { args: [registration] }).catch(findRefusal);
  expect(await refused).toMatchObject({ code: 'DeviceExists' });
});

test.each([
  ['missing', {}, 'parameter serial is missing'],
  ['a path', { serial: '../../etc' }, 'device name'],
  ['a wildcard', { serial: '+' }, 'device name'],
  ['a NUL', { serial: 'a\u0000b' }, 'control character'],
  ['too long', { serial: 'x'.repeat(300) }, 'longer than 256'],
  ['inherited', JSON.parse('{"__proto__": {"serial": "1"}}'), 'parameter serial is missing'],
])('a parameter that is %s is refused by its name', async (_, parameters, detail) => {
  const { claimId, template } = await fleet.makeClaim();
  const { issued, workflow } = ask(claimId, makePublicKey());
  await issued;
  const refused = await workflow.executeUpdate(registerDevice, { args: [{ template, parameters }] }).catch(findRefusal);
  expect(refused).toMatchObject({ code: 'InvalidParameters', detail: expect.stringContaining(detail) });
});
