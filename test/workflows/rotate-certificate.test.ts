import { and, eq } from 'drizzle-orm';
import type { MqttClient } from 'mqtt';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { beginOf } from '../../db/rotation-beginnings.ts';
import { rotations } from '../../db/rotation-schema.ts';
import { listRotations } from '../../db/rotations.ts';
import { executions } from '../../db/rollout-schema.ts';
import { audit, certificates } from '../../db/schema.ts';
import { createRenewal } from '../../doors/renewal.ts';
import { makeCsr, makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { rotateCertificate, rotateCertificateId, type RotationLimits } from '../../workflows/rotate-certificate.ts';
import { openRig, type Rig } from '../doors/rig.ts';
import { eventually } from '../support/eventually.ts';
import type { Credentials } from '../support/gateway.ts';
import { recordHistory } from '../support/histories.ts';
import { makeJob, queueJob } from '../support/jobs.ts';

let rig: Rig;
beforeAll(async () => void (rig = await openRig()), 120_000);
afterAll(() => rig[Symbol.asyncDispose]());

type Device = Credentials & { deviceId: string; name: string };

/** The lifecycle of a device, ordered by an operator, with these limits. */
async function order({ deviceId, name: device }: Device, limits: Partial<RotationLimits> = {}) {
  const [begun] = await beginOf(rig.db, { deviceId, reason: 'requested', askedBy: 'api-key/test' });
  if (!begun) throw new Error('nothing was begun');
  const { rotationId } = begun;
  const workflow = await rig.temporal.client.workflow.start(rotateCertificate, {
    workflowId: rotateCertificateId(device),
    taskQueue: rig.temporal.taskQueue,
    args: [{ rotationId, deviceId, device, limits }],
  });
  return { rotationId, workflow };
}

/** What an AWS client publishes and hears. */
async function ask(
  client: MqttClient,
  topic: string,
  body: object,
): Promise<{ ok: boolean; body: Record<string, string> }> {
  await client.subscribeAsync([`${topic}/accepted`, `${topic}/rejected`], { qos: 1 });
  const { promise, resolve } = Promise.withResolvers<[string, Buffer]>();
  client.once('message', (answered, payload) => resolve([answered, payload]));
  await client.publishAsync(topic, JSON.stringify(body), { qos: 1 });
  const [answered, payload] = await promise;
  return { ok: answered.endsWith('/accepted'), body: JSON.parse(String(payload)) };
}

const renewal = (client: MqttClient, pair: KeyPair, name?: string) =>
  ask(client, '$aws/certificates/create-from-csr/json', { certificateSigningRequest: makeCsr(pair, name) });
const identityOf = ({ deviceId, name, certificateId }: Device) => ({ deviceId, name, certificateId });
const stateOf = async (id: string) =>
  (await rig.db.select().from(certificates).where(eq(certificates.id, id)))[0]?.state;
const livingOf = async ({ deviceId }: Device) =>
  (await rig.db.select().from(certificates).where(eq(certificates.deviceId, deviceId))).filter(
    ({ state }) => state !== 'REVOKED',
  );
const ordered = (rotationId: string) =>
  eventually(async () => {
    const [row] = await rig.db.select().from(executions).where(eq(executions.jobId, rotationId));
    return row ?? null;
  });

test('a device takes the order as a job, asks on its certificate, and the old one ends only after the new was used', async () => {
  const device = await rig.fleet.makeDevice();
  const { rotationId, workflow } = await order(device, { graceMs: 1_500 });
  await ordered(rotationId);
  const old = await rig.gateway.connect(device, { clientId: 'old' });
  const job = await ask(old, `$aws/things/${device.name}/jobs/start-next`, {});
  expect(job.body).toMatchObject({
    execution: {
      jobId: rotationId,
      jobDocument: { operation: 'rotate-certificate', certificateId: device.certificateId },
    },
  });
  const pair = makeKeyPair();
  const issued = await renewal(old, pair);
  expect(issued).toMatchObject({ ok: true, body: { certificateOwnershipToken: '' } });
  const { certificateId = '', certificatePem = '' } = issued.body;
  expect(certificatePem.match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
  expect(await stateOf(certificateId)).toBe('PENDING_ACTIVATION');
  expect(await stateOf(device.certificateId)).toBe('ACTIVE');
  await rig.gateway.connect({ certificateId, certificate: certificatePem, privateKey: pair.privateKeyPem });
  await eventually(async () => {
    const [execution] = await rig.db.select().from(executions).where(eq(executions.jobId, rotationId));
    expect(execution?.status).toBe('SUCCEEDED');
  });
  expect(await stateOf(device.certificateId)).toBe('ACTIVE');
  expect(await workflow.result()).toBe('ROTATED');
  await recordHistory(workflow, 'rotateCertificate-rotated');
  expect(await livingOf(device)).toMatchObject([{ id: certificateId, state: 'ACTIVE', subject: device.name }]);
  const told = await rig.db
    .select()
    .from(audit)
    .where(eq(audit.subject, `device/${device.name}`))
    .orderBy(audit.id);
  expect(told.map(({ action }) => action)).toEqual(['rotation.begun', 'rotation.finished']);
});

test('a certificate that is never used is taken back, the old one is as it was, and the next try waits a day', async () => {
  const device = await rig.fleet.makeDevice();
  const { rotationId, workflow } = await order(device, { proveWithinMs: 300 });
  const { certificateId } = await createRenewal(rig)(identityOf(device), makeCsr(makeKeyPair()));
  expect(await workflow.result()).toBe('NEVER_USED');
  await recordHistory(workflow, 'rotateCertificate-never-used');
  expect(await stateOf(certificateId)).toBe('REVOKED');
  expect(await livingOf(device)).toMatchObject([{ id: device.certificateId, state: 'ACTIVE' }]);
  const [tried] = await listRotations(rig.db, device.deviceId, 10);
  expect(Math.round(((tried?.againAt?.getTime() ?? 0) - Date.now()) / 3_600_000)).toBe(24);
  await ended(rotationId);
  // A second try knows that it is one, and its pause is twice as long.
  const again = await order(device, { answerWithinMs: 300 });
  expect(await again.workflow.result()).toBe('UNANSWERED');
  const [second] = await listRotations(rig.db, device.deviceId, 1);
  expect(second?.attempt).toBe(2);
  expect(Math.round(((second?.againAt?.getTime() ?? 0) - Date.now()) / 3_600_000)).toBe(48);
});

const ended = (rotationId: string) =>
  eventually(async () => {
    const [row] = await rig.db.select().from(rotations).where(eq(rotations.id, rotationId));
    expect(row?.finishedAt).not.toBeNull();
  });

test('fifty requests at once, and one after the answer was lost, are one certificate; another key takes its place', async () => {
  const device = await rig.fleet.makeDevice();
  const { workflow } = await order(device, { graceMs: 0 });
  const pair = makeKeyPair();
  const csr = makeCsr(pair);
  const renew = createRenewal(rig);
  const answers = await Promise.all(Array.from({ length: 50 }, () => renew(identityOf(device), csr)));
  answers.push(await createRenewal(rig)(identityOf(device), csr));
  expect(new Set(answers.map(({ certificateId }) => certificateId)).size).toBe(1);
  expect(await livingOf(device)).toHaveLength(2);
  const other = makeKeyPair();
  const { certificateId, certificatePem } = await renew(identityOf(device), makeCsr(other));
  expect((await livingOf(device)).map(({ id }) => id).toSorted()).toEqual(
    [device.certificateId, certificateId].toSorted(),
  );
  await rig.gateway.connect({ certificateId, certificate: certificatePem, privateKey: other.privateKeyPem });
  expect(await workflow.result()).toBe('ROTATED');
  expect(await livingOf(device)).toMatchObject([{ id: certificateId }]);
});

test('who asks without right is refused by name, and nothing is issued', async () => {
  const renew = createRenewal(rig);
  const csr = () => makeCsr(makeKeyPair());
  const [young, old, blocked, other] = await Promise.all([
    rig.fleet.makeDevice(),
    rig.fleet.makeDevice(),
    rig.fleet.makeDevice({ deviceState: 'BLOCKED' }),
    rig.fleet.makeDevice(),
  ]);
  expect(await rig.refused(renew(identityOf(young), csr()))).toBe('RotationNotDue');
  await order(old);
  const { certificateId: foreign } = other;
  expect(await rig.refused(renew({ ...identityOf(old), certificateId: foreign }, csr()))).toBe('CertificateUnknown');
  expect(await rig.refused(renew(identityOf(old), makeCsr(makeKeyPair(), other.name)))).toBe('InvalidCsr');
  expect(await rig.refused(renew(identityOf(old), 'no request'))).toBe('InvalidCsr');
  expect(await rig.refused(renew(identityOf(blocked), csr()))).toBe('DeviceBlocked');
  const isOld = eq(certificates.id, old.certificateId);
  const ownKey = { privateKeyPem: old.privateKey } as KeyPair;
  expect(await rig.refused(renew(identityOf(old), makeCsr(ownKey)))).toBe('KeyInUse');
  await rig.db
    .update(certificates)
    .set({ notAfter: new Date(Date.now() - 1_000) })
    .where(isOld);
  expect(await rig.refused(renew(identityOf(old), csr()))).toBe('CertificateExpired');
  await rig.db.update(certificates).set({ state: 'REVOKED' }).where(isOld);
  expect(await rig.refused(renew(identityOf(old), csr()))).toBe('CertificateRevoked');
  for (const { deviceId } of [young, old, blocked, other]) {
    const rows = await rig.db.select().from(certificates).where(eq(certificates.deviceId, deviceId));
    expect(rows).toHaveLength(1);
  }
});

test('in the grace there is no third certificate, and the old one renews nothing', async () => {
  const device = await rig.fleet.makeDevice();
  await order(device, { graceMs: 3_600_000 });
  const renew = createRenewal(rig);
  const pair = makeKeyPair();
  const { certificateId, certificatePem } = await renew(identityOf(device), makeCsr(pair));
  await rig.gateway.connect({ certificateId, certificate: certificatePem, privateKey: pair.privateKeyPem });
  const csr = makeCsr(makeKeyPair());
  expect(await rig.refused(renew(identityOf(device), csr))).toBe('CertificateSuperseded');
  expect(await rig.refused(renew({ ...identityOf(device), certificateId }, csr))).toBe('TooManyCertificates');
  expect(await livingOf(device)).toHaveLength(2);
});

test('an agent that does not know the order ends it, and a waiting update goes first', async () => {
  const device = await rig.fleet.makeDevice();
  const { rotationId, workflow } = await order(device);
  await ordered(rotationId);
  const update = await makeJob(rig.db);
  await queueJob(rig.db, update, [device.deviceId]);
  const client = await rig.gateway.connect(device);
  const first = await ask(client, `$aws/things/${device.name}/jobs/start-next`, {});
  expect(first.body).toMatchObject({ execution: { jobId: update.id } });
  await ask(client, `$aws/things/${device.name}/jobs/${update.id}/update`, { status: 'SUCCEEDED' });
  await ask(client, `$aws/things/${device.name}/jobs/${rotationId}/update`, { status: 'REJECTED' });
  expect(await workflow.result()).toBe('REFUSED');
  const open = and(eq(rotations.deviceId, device.deviceId), eq(rotations.state, 'REFUSED'));
  expect(await rig.db.select().from(rotations).where(open)).toHaveLength(1);
});
