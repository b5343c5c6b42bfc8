import { X509Certificate } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { beginOf } from '../../db/rotation-beginnings.ts';
import { certificates } from '../../db/schema.ts';
import { createAuthorities, openAuthority } from '../../pki/authority.ts';
import { makeCsr, makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import type { Credentials } from '../support/gateway.ts';
import { openRig, type Rig } from './rig.ts';
import { serveTestDoors, type Asking, type Served } from './served.ts';

let rig: Rig;
let served: Served;
beforeAll(async () => {
  rig = await openRig();
  served = await serveTestDoors(rig);
}, 120_000);
afterAll(async () => {
  await served?.[Symbol.asyncDispose]();
  await rig?.[Symbol.asyncDispose]();
});

type Device = Credentials & { deviceId: string; name: string };

/** A device whose certificate somebody has ordered to be replaced. */
async function makeOrdered(): Promise<Device> {
  const device = await rig.fleet.makeDevice();
  await beginOf(rig.db, { deviceId: device.deviceId, reason: 'requested', askedBy: 'api-key/test' });
  return device;
}

const base64Of = (pem: string) => pem.replaceAll(/-----[A-Z ]+-----|\s/g, '');

async function renew(credentials: Asking['credentials'], csr = makeCsr(makeKeyPair())) {
  const headers = { 'content-type': 'application/pkcs10' };
  const asking = { headers, body: base64Of(csr), ...(credentials && { credentials }) };
  const { status, body } = await served.ask('POST', '/.well-known/est/simplereenroll', asking);
  return status === 200 ? { status, body } : { status, code: JSON.parse(body).type.split(':').at(-1) };
}

const certificatesOf = async ({ deviceId }: Device) =>
  rig.db.select().from(certificates).where(eq(certificates.deviceId, deviceId));
const update = (id: string, change: Partial<typeof certificates.$inferInsert>) =>
  rig.db.update(certificates).set(change).where(eq(certificates.id, id));

/** Renews, and connects with what came of it. */
async function renewAndProve(device: Device): Promise<Credentials> {
  const pair = makeKeyPair();
  expect(await renew(device, makeCsr(pair, device.name))).toMatchObject({ status: 200 });
  const made = (await certificatesOf(device)).find(({ id }) => id !== device.certificateId);
  const certificate = `${made?.pem}${rig.fleet.authority.certificatePem}`;
  const next = { certificateId: made?.id ?? '', certificate, privateKey: pair.privateKeyPem };
  (await rig.gateway.connect(next)).end(true);
  return next;
}

test('a device asks on its current certificate for the next, is answered the same again, and connects with it', async () => {
  const device = await makeOrdered();
  const csr = makeCsr(makeKeyPair());
  const answers = await Promise.all(Array.from({ length: 10 }, () => renew(device, csr)));
  answers.push(await renew(device, csr));
  expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
  expect(answers[0]).toMatchObject({ status: 200 });
  expect(await certificatesOf(device)).toHaveLength(2);
  const next = await renewAndProve(await makeOrdered());
  expect(new X509Certificate(next.certificate).subject).toMatch(/^CN=pump-/);
});

test('a third live certificate is refused, and so is the one that was replaced', async () => {
  const device = await makeOrdered();
  const next = await renewAndProve(device);
  expect(await renew(device)).toEqual({ status: 403, code: 'CertificateSuperseded' });
  expect(await renew(next)).toMatchObject({ code: 'TooManyCertificates' });
  expect(await certificatesOf(device)).toHaveLength(2);
});

test('a certificate that was never used, has ended or is revoked renews nothing', async () => {
  const device = await makeOrdered();
  const { certificateId: id } = device;
  await update(id, { state: 'PENDING_ACTIVATION' });
  expect(await renew(device)).toEqual({ status: 403, code: 'CertificateNotActive' });
  await update(id, { state: 'ACTIVE', notAfter: new Date(Date.now() - 1_000) });
  expect(await renew(device)).toEqual({ status: 403, code: 'CertificateExpired' });
  await update(id, { state: 'REVOKED', notAfter: new Date(Date.now() + 1_000_000) });
  expect(await renew(device)).toEqual({ status: 403, code: 'CertificateRevoked' });
  expect(await certificatesOf(device)).toHaveLength(1);
});

test("neither nobody's certificate, nor a claim's, nor one of the same name by another authority renews", async () => {
  const device = await makeOrdered();
  const keyEncryptionKey = Buffer.alloc(32, 7);
  const { root, issuing } = await createAuthorities({ keyEncryptionKey });
  const pems = { rootPem: root.certificatePem, issuingPem: issuing.certificatePem };
  const other = await openAuthority({
    id: device.deviceId,
    keyEncryptionKey,
    encryptedKey: issuing.encryptedKey,
    ...pems,
  });
  const publicKey = new X509Certificate(device.certificate).publicKey.export({ type: 'spki', format: 'der' });
  const forged = await other.issue({
    profile: 'device',
    certificateId: device.certificateId,
    subject: { device: device.name },
    publicKey,
    lifetimeMs: 90 * 86_400_000,
  });
  const missing = { status: 403, code: 'CertificateMissing' };
  expect(await renew({ ...device, certificate: forged.chainPem })).toEqual(missing);
  expect(await renew(undefined)).toEqual(missing);
  expect(await renew(await rig.fleet.makeClaim())).toEqual(missing);
  expect(await certificatesOf(device)).toHaveLength(1);
});

test('a request in another name, for the key that it has, or without an order is refused', async () => {
  const device = await makeOrdered();
  expect(await renew(device, makeCsr(makeKeyPair(), 'somebody-else'))).toMatchObject({ code: 'InvalidCsr' });
  // A request is made with the private half alone.
  const own = { privateKeyPem: device.privateKey } as KeyPair;
  expect(await renew(device, makeCsr(own))).toMatchObject({ code: 'KeyInUse' });
  expect(await renew(await rig.fleet.makeDevice())).toEqual({ status: 409, code: 'RotationNotDue' });
  expect(await certificatesOf(device)).toHaveLength(1);
});
