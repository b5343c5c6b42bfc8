import { randomBytes, randomUUIDv7, X509Certificate } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { insertAuthority, listAuthorities } from '../../db/authorities.ts';
import { blockDevice } from '../../db/blocks.ts';
import { rotations } from '../../db/rotation-schema.ts';
import { audit, certificates, devices, events } from '../../db/schema.ts';
import { createRenewal } from '../../doors/renewal.ts';
import { createAuthorities } from '../../pki/authority.ts';
import { makeCsr, makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { makeApi } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { makeAway, permitRecovery, type Away } from './away.ts';
import { openRig, type Rig } from './rig.ts';
import { serveTestDoors, type Asking, type Served } from './served.ts';

let rig: Rig;
let served: Served;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  rig = await openRig();
  served = await serveTestDoors(rig);
  api = await makeApi(rig.db, { authority: rig.fleet.authority, wire: rig.wire });
}, 120_000);
afterAll(async () => {
  await served?.[Symbol.asyncDispose]();
  await rig?.[Symbol.asyncDispose]();
});
beforeEach(() => permitRecovery(rig));

const update = (id: string, change: Partial<typeof certificates.$inferInsert>) =>
  rig.db.update(certificates).set(change).where(eq(certificates.id, id));
const base64Of = (pem: string) => pem.replaceAll(/-----[A-Z ]+-----|\s/g, '');

/** `simplereenroll` over TLS with the certificate that has ended. */
async function comeBack(credentials: Asking['credentials'], pair = makeKeyPair()) {
  const headers = { 'content-type': 'application/pkcs10' };
  const asking = { headers, body: base64Of(makeCsr(pair)), ...(credentials && { credentials }) };
  const { status, body, headers: said } = await served.ask('POST', '/.well-known/est/simplereenroll', asking);
  if (status === 200) return { status, body };
  return status === 202
    ? { status, later: said['retry-after'] }
    : { status, code: JSON.parse(body).type.split(':').at(-1) };
}

const certificatesOf = ({ deviceId }: Pick<Away, 'deviceId'>) =>
  rig.db.select().from(certificates).where(eq(certificates.deviceId, deviceId));

/** What came of it: refused by this name, and nothing issued or begun. */
async function expectRefused(device: Away, refused: { status: number; code: string }, pair?: KeyPair) {
  const before = (await certificatesOf(device)).length;
  expect(await comeBack(device, pair)).toEqual(refused);
  expect(await certificatesOf(device)).toHaveLength(before);
  expect(await rig.db.$count(rotations, eq(rotations.deviceId, device.deviceId))).toBe(0);
}

async function toldOf({ certificateId }: Away) {
  const subject = `certificate/${certificateId}`;
  const [said, heard] = await Promise.all([
    rig.db.select().from(audit).where(eq(audit.subject, subject)).orderBy(audit.id),
    rig.db.select().from(events).where(eq(events.subject, subject)).orderBy(events.id),
  ]);
  return { audit: said.map(({ action }) => action), events: heard.map(({ kind }) => kind) };
}

const expired = { status: 403, code: 'CertificateExpired' };

test('a device comes back on the certificate that ended, is one of the fleet again, and MQTT has refused the old one throughout', async () => {
  const device = await makeAway(rig);
  await expect(rig.gateway.connect(device)).rejects.toThrow('closed before the CONNACK');
  const pair = makeKeyPair();
  const answers = await Promise.all([comeBack(device, pair), comeBack(device, pair)]);
  answers.push(await comeBack(device, pair));
  expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
  expect(answers[0]).toMatchObject({ status: 200 });
  await expect(rig.gateway.connect(device)).rejects.toThrow('closed before the CONNACK');

  const [made, ...more] = (await certificatesOf(device)).filter(({ id }) => id !== device.certificateId);
  expect(more).toEqual([]);
  const certificate = `${made?.pem}${rig.fleet.authority.certificatePem}`;
  expect(new X509Certificate(certificate).subject).toBe(`CN=${device.name}`);
  const next = { certificateId: made?.id ?? '', certificate, privateKey: pair.privateKeyPem };
  (await rig.gateway.connect(next)).end(true);
  const [rotation] = await rig.db.select().from(rotations).where(eq(rotations.deviceId, device.deviceId));
  expect(rotation).toMatchObject({ reason: 'recovery', newCertificateId: made?.id });
  await eventually(
    async () =>
      (
        await rig.db
          .select()
          .from(rotations)
          .where(eq(rotations.id, rotation?.id ?? ''))
      )[0]?.state === 'PROVEN',
  );
  expect(await comeBack(device)).toEqual({ status: 403, code: 'CertificateSuperseded' });
  expect(await toldOf(device)).toEqual({
    audit: ['recovery.asked', 'recovery.granted'],
    events: ['recovery.granted'],
  });
});

test('nobody comes back where the policy does not say so, or after its time', async () => {
  const device = await makeAway(rig, 10);
  await permitRecovery(rig, { recoverWithinDays: 0 });
  await expectRefused(device, expired);
  await permitRecovery(rig, { recoverWithinDays: 9 });
  await expectRefused(device, expired);
  expect(await toldOf(device)).toEqual({ audit: [], events: [] });
  // What a template says is for its own devices.
  await permitRecovery(rig, { name: 'away' });
  await rig.db.update(devices).set({ template: 'away' }).where(eq(devices.id, device.deviceId));
  expect(await comeBack(device)).toMatchObject({ status: 200 });
});

test('neither a revoked certificate comes back, nor one never used, nor a blocked device, nor a blocked key', async () => {
  const [revoked, unused, blocked, keyBlocked] = await Promise.all([
    makeAway(rig),
    makeAway(rig),
    makeAway(rig),
    makeAway(rig),
  ]);
  await update(revoked.certificateId, { state: 'REVOKED' });
  await expectRefused(revoked, { status: 403, code: 'CertificateRevoked' });
  await update(unused.certificateId, { state: 'PENDING_ACTIVATION', activatedAt: null });
  await expectRefused(unused, { status: 403, code: 'CertificateNotActive' });
  await blockDevice(rig.db, 'system/test', blocked.name);
  await expectRefused(blocked, { status: 403, code: 'DeviceBlocked' });
  await expectRefused(keyBlocked, { status: 403, code: 'DeviceBlocked' }, blocked.pair);
});

test('one that a later certificate has replaced does not come back, even where that has ended as well', async () => {
  const device = await makeAway(rig, 20);
  const later = await makeAway(rig, 5);
  await update(later.certificateId, { deviceId: device.deviceId });
  await expectRefused(device, { status: 403, code: 'CertificateSuperseded' });
  expect(await comeBack(later)).toMatchObject({ status: 200 });
});

test('nor does one whose authority was revoked, also after it was granted', async () => {
  const { issuing } = await createAuthorities({ keyEncryptionKey: randomBytes(32) });
  const [device, granted] = await Promise.all([makeAway(rig), makeAway(rig)]);
  const pair = makeKeyPair();
  await permitRecovery(rig, { recoveryApproval: true });
  expect(await comeBack(granted, pair)).toMatchObject({ status: 202 });
  expect((await api.ask('POST', `/v1/recoveries/${granted.certificateId}/approve`)).status).toBe(200);
  const authorityId = randomUUIDv7();
  const { parentId } = (await listAuthorities(rig.db)).find(({ kind }) => kind === 'issuing') ?? {};
  const revoked = { ...issuing, id: authorityId, name: issuing.subject, parentId: parentId ?? null };
  await insertAuthority(rig.db, { ...revoked, kind: 'issuing', state: 'REVOKED' });
  for (const { certificateId } of [device, granted]) await update(certificateId, { authorityId });
  await expectRefused(device, { status: 403, code: 'AuthorityRetired' });
  await expectRefused(granted, { status: 403, code: 'AuthorityRetired' }, pair);
  const { deviceId, name, certificateId } = granted;
  expect(await rig.refused(createRenewal(rig)({ deviceId, name, certificateId }, makeCsr(pair)))).toBe(
    'CertificateExpired',
  );
});

test('the proof is a certificate that we know, and the new key is one that was never in use', async () => {
  const device = await makeAway(rig);
  const unknown = await makeAway(rig);
  await update(unknown.certificateId, { fingerprint: randomBytes(32) });
  await expectRefused(unknown, { status: 403, code: 'CertificateMissing' });
  expect(await comeBack(undefined)).toMatchObject({ code: 'CertificateMissing' });
  // Neither the key that it had, nor one of somebody else.
  await expectRefused(device, { status: 409, code: 'KeyInUse' }, device.pair);
  await expectRefused(device, { status: 409, code: 'KeyInUse' }, unknown.pair);
});

test('what is granted is granted to one key, and the lifecycle issues for no other', async () => {
  const device = await makeAway(rig);
  const first = makeKeyPair();
  await permitRecovery(rig, { recoveryApproval: true });
  expect(await comeBack(device, first)).toEqual({ status: 202, later: '30' });
  expect((await api.ask('POST', `/v1/recoveries/${device.certificateId}/approve`)).status).toBe(200);
  const { deviceId, name, certificateId } = device;
  const past = createRenewal(rig)({ deviceId, name, certificateId }, makeCsr(makeKeyPair()));
  expect(await rig.refused(past)).toBe('CertificateExpired');
  // Another key is another question.
  expect(await comeBack(device)).toEqual({ status: 202, later: '30' });
  expect(await certificatesOf(device)).toHaveLength(1);
});

test('where an operator is to approve, a device waits, asks again, and comes back or is told no', async () => {
  await permitRecovery(rig, { recoveryApproval: true });
  const [good, bad] = await Promise.all([makeAway(rig), makeAway(rig)]);
  const [goodKey, badKey] = [makeKeyPair(), makeKeyPair()];
  for (const _ of [1, 2, 3]) expect(await comeBack(good, goodKey)).toEqual({ status: 202, later: '30' });
  expect(await comeBack(bad, badKey)).toMatchObject({ status: 202 });
  expect(await toldOf(good)).toEqual({ audit: ['recovery.asked'], events: ['recovery.waiting'] });
  const { body } = await api.ask('GET', '/v1/recoveries?filter=state==WAITING');
  expect(body.items).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ certificateId: good.certificateId, device: good.name, state: 'WAITING' }),
    ]),
  );
  const decide = (device: Away, word: string) => api.ask('POST', `/v1/recoveries/${device.certificateId}/${word}`);
  expect(await decide(good, 'approve')).toMatchObject({ status: 200, body: { state: 'GRANTED' } });
  expect(await decide(bad, 'deny')).toMatchObject({ status: 200, body: { state: 'DENIED' } });
  expect((await decide(good, 'deny')).status).toBe(409);
  expect((await decide({ ...good, certificateId: '0'.repeat(64) }, 'approve')).status).toBe(404);
  expect(await comeBack(good, goodKey)).toMatchObject({ status: 200 });
  await expectRefused(bad, { status: 403, code: 'RecoveryDenied' }, badKey);
  await expectRefused(bad, { status: 403, code: 'RecoveryDenied' });
  expect(await toldOf(bad)).toEqual({
    audit: ['recovery.asked', 'recovery.denied'],
    events: ['recovery.waiting', 'recovery.denied'],
  });
  // What speaks against the device by then outweighs what was granted.
  expect((await decide(bad, 'approve')).status).toBe(200);
  await blockDevice(rig.db, 'system/test', bad.name);
  await expectRefused(bad, { status: 403, code: 'DeviceBlocked' }, badKey);
});

test('no more come back in a minute than the policy begins rotations', async () => {
  await permitRecovery(rig, { name: 'slow', perMinute: 2 });
  const away = await Promise.all(Array.from({ length: 4 }, () => makeAway(rig)));
  for (const { deviceId } of away)
    await rig.db.update(devices).set({ template: 'slow' }).where(eq(devices.id, deviceId));
  const statuses = (await Promise.all(away.map((device) => comeBack(device)))).map(({ status }) => status);
  expect(statuses.toSorted((a = 0, b = 0) => a - b)).toEqual([200, 200, 429, 429]);
});
