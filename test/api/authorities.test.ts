import { generateKeyPairSync, randomBytes, randomUUIDv7, X509Certificate } from 'node:crypto';
import { and, eq, isNull, like, sql } from 'drizzle-orm';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { certifyRequest, findAuthorityRequest } from '../../db/authority-requests.ts';
import { rollovers } from '../../db/authority-schema.ts';
import { wasKeyUsed } from '../../db/certificates.ts';
import { executions } from '../../db/rollout-schema.ts';
import { audit, authorities, certificates, outbox } from '../../db/schema.ts';
import { findTrustBundle, orderTrustBundle } from '../../db/trust-bundles.ts';
import { createAuthorities, createRoot } from '../../pki/authority.ts';
import { encodePem } from '../../pki/pem.ts';
import { certifyAuthority } from '../../pki/x509.ts';
import { ensureTrustBundle } from '../../workers/authorities.ts';
import { makeApi } from '../support/api.ts';
import { certify, followSuccessors } from '../support/authorities.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';
import { makeJob, queueJob } from '../support/jobs.ts';
import { openOpenssl } from '../pki/openssl.ts';

let database: TestDatabase;
let fleet: Fleet;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeEach(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  await ensureTrustBundle(database.db);
  api = await makeApi(database.db, { authority: fleet.authority });
});
afterEach(() => database[Symbol.asyncDispose]());

type Shown = { id: string; state: string; csrPem: string; subject: string; certificates: number; version: number };
const ask = async (method: string, path: string, body?: unknown) => {
  const answer = await api.ask(method, path, body);
  // What of it is there, the assertion beside it says.
  return {
    ...answer,
    body: answer.body as unknown as Shown & { items: Shown[]; acknowledged: number; devices: number },
  };
};
const rootOf = () => ({ certificatePem: fleet.authority.rootPem, privateKeyPem: fleet.rootKeyPem });
const makePending = async () => (await ask('POST', '/v1/authorities', { kind: 'issuing' })).body;
const bring = (id: string, certificatePem: string) =>
  ask('PUT', `/v1/authorities/${id}/certificate`, { certificatePem });
async function makeStandby(root = rootOf()) {
  const { id, csrPem } = await makePending();
  const certified = await bring(id, await certify(root, csrPem));
  expect(certified).toMatchObject({ status: 200, body: { state: 'STANDBY' } });
  return id;
}
const isTrusted = async (pem: string) => (await (await api.app.request('/authorities.pem')).text()).includes(pem);
const actionsOf = async (subject: string) =>
  (await database.db.select().from(audit).where(eq(audit.subject, subject)).orderBy(audit.id)).map(
    ({ action }) => action,
  );

test('a successor is a key with a request, then a certificate that is bound for good, and each step is in the audit', async () => {
  await fleet.makeDevice();
  const pending = await ask('POST', '/v1/authorities', { kind: 'issuing', name: 'Line 2' });
  expect(pending).toMatchObject({ status: 201, body: { state: 'PENDING', subject: 'CN=Line 2', signer: 'database' } });
  const { id, csrPem } = pending.body;
  const pem = await certify(rootOf(), csrPem, 'Line 2');
  expect((await bring(id, pem)).status).toBe(200);
  expect(await bring(id, pem)).toMatchObject({ status: 200, body: { state: 'STANDBY' } });
  expect((await bring(id, await certify(rootOf(), csrPem))).status).toBe(409);
  const { items } = (await ask('GET', '/v1/authorities')).body;
  expect(items.map(({ state, certificates: count }) => [state, count])).toEqual([
    ['ACTIVE', 0],
    ['ACTIVE', 1],
    ['STANDBY', 0],
  ]);
  expect(JSON.stringify(items)).not.toContain('PRIVATE');
  expect(await actionsOf(`authority/${id}`)).toEqual(['authority.requested', 'authority.certified']);
});

test('the certificate may come from any tool: openssl signs one that is taken', async () => {
  using openssl = openOpenssl();
  const { id, csrPem } = await makePending();
  const extensions = [
    'basicConstraints = critical, CA:true, pathlen:0',
    'keyUsage = critical, keyCertSign, cRLSign',
    'subjectKeyIdentifier = hash',
    'authorityKeyIdentifier = keyid',
  ].join('\n');
  const { certificatePem, privateKeyPem } = rootOf();
  const root = ['-CA', openssl.write('ca.pem', certificatePem), '-CAkey', openssl.write('ca-key.pem', privateKeyPem)];
  const request = ['-in', openssl.write('csr.pem', csrPem), '-extfile', openssl.write('ext.cnf', extensions)];
  const pem = openssl.run('x509', '-req', '-sha384', '-days', '3650', ...root, ...request);
  expect(await bring(id, pem)).toMatchObject({ status: 200, body: { state: 'STANDBY' } });
});

test('a certificate that breaks one rule is refused, and the request waits on', async () => {
  const { id, csrPem } = await makePending();
  const other = await makePending();
  const good = await certify(rootOf(), csrPem);
  const algorithm = { name: 'ECDSA', namedCurve: 'P-384' };
  const der = Buffer.from(fleet.rootKeyPem.replaceAll(/-----.*-----|\s/g, ''), 'base64');
  const privateKey = await crypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign']);
  const spkiOf = (pem: string) => new X509Certificate(pem).publicKey.export({ type: 'spki', format: 'der' });
  const spki = spkiOf(good);
  const signer = {
    privateKey,
    spki: spkiOf(fleet.authority.rootPem),
    name: 'Longhaul root authority',
  };
  const yearMs = 365 * 86_400_000;
  const sign = async (part: { pathLength?: number; name?: string; years?: number; from?: number }) => {
    const notBefore = new Date(Date.now() + (part.from ?? 0));
    const notAfter = new Date(Date.now() + (part.years ?? 5) * yearMs);
    const subject = { spki, name: part.name ?? 'Next' };
    const times = { notBefore, notAfter, serial: '0badcafe', pathLength: part.pathLength ?? 0 };
    return encodePem('CERTIFICATE', await certifyAuthority({ signer, subject, ...times }));
  };
  const device = await fleet.makeDevice();
  const refused: [string, string][] = [
    ['the key of the request', await certify(rootOf(), other.csrPem)],
    ['no root that is trusted', await certify(await createRoot(), csrPem)],
    ['path length', await sign({ pathLength: 1 })],
    ['within that of its root', await sign({ years: 30 })],
    ['not valid yet', await sign({ from: 86_400_000 })],
    ['half a year', await sign({ years: 0.2 })],
    ['name is that of its root', await sign({ name: 'Longhaul root authority' })],
    ['basic constraints', device.certificate.split(/(?<=-----END CERTIFICATE-----\n)/)[0] ?? ''],
    ['one PEM block', good + good],
    ['no certificate in DER', encodePem('CERTIFICATE', Buffer.from('3003020100', 'hex'))],
  ];
  for (const [why, pem] of refused) {
    const answer = await bring(id, pem);
    expect([why, answer.status]).toEqual([why, 422]);
    expect(answer.body).toMatchObject({ detail: expect.stringContaining(why) });
  }
  expect(await bring(id, 'x'.repeat(40_000))).toMatchObject({ status: 422 });
  expect((await bring(randomUUIDv7(), good)).status).toBe(404);
  expect((await bring(id, good)).status).toBe(200);
});

test('a key in a place that this process does not know is not made, ten wait at most, and one may be given up', async () => {
  expect((await ask('POST', '/v1/authorities', { kind: 'issuing', signer: 'pkcs11' })).status).toBe(409);
  expect((await ask('POST', '/v1/authorities', { kind: 'issuing', name: 'a\nb' })).status).toBe(422);
  const made = await Promise.all(Array.from({ length: 11 }, () => ask('POST', '/v1/authorities', { kind: 'issuing' })));
  expect(made.filter(({ status }) => status === 201)).toHaveLength(10);
  expect(made.filter(({ status }) => status === 409)).toHaveLength(1);
  const { id } = made.find(({ status }) => status === 201)?.body ?? { id: '' };
  expect((await ask('DELETE', `/v1/authorities/${id}`)).status).toBe(204);
  expect((await ask('DELETE', `/v1/authorities/${id}`)).status).toBe(404);
  expect((await ask('DELETE', `/v1/authorities/${fleet.authority.id}`)).status).toBe(409);
});

test('only one that stands by takes over; asked again, the time that is waited is another', async () => {
  const id = await makeStandby();
  const begun = await ask('POST', `/v1/authorities/${id}/activate`, { acknowledgeWithinHours: 5 });
  expect(begun).toMatchObject({ status: 202, body: { lifecycle: { workflowId: `rollover-authority/${id}` } } });
  expect((await ask('POST', `/v1/authorities/${id}/activate`, { acknowledgeWithinHours: 0 })).status).toBe(202);
  const [row] = await database.db.select().from(rollovers);
  expect(row?.acknowledgeBy.getTime()).toBeLessThanOrEqual(Date.now());
  const starts = await database.db.select().from(outbox).where(eq(outbox.name, 'rolloverAuthority'));
  expect(starts[0]).toMatchObject({ kind: 'start', argument: { authorityId: id } });
  expect((await ask('POST', `/v1/authorities/${fleet.authority.id}/activate`, {})).status).toBe(409);
  expect((await ask('POST', `/v1/authorities/${fleet.rootId}/activate`, {})).status).toBe(409);
  expect((await ask('POST', `/v1/authorities/${randomUUIDv7()}/activate`, {})).status).toBe(404);
});

test('who is revoked without a successor that issues is succeeded by the one that stands by, and rotations begin at once', async () => {
  const id = await makeStandby();
  await fleet.makeDevice();
  const signer = followSuccessors(fleet);
  const request = { profile: 'service' as const, subject: { service: 'app' }, certificateId: '0'.repeat(64) };
  const options = { namedCurve: 'P-256', publicKeyEncoding: { type: 'spki', format: 'der' } } as const;
  const { publicKey } = generateKeyPairSync('ec', options);
  const issue = async () => (await signer.issue({ ...request, publicKey, lifetimeMs: 90 * 86_400_000 })).authorityId;
  expect(await issue()).toBe(fleet.authority.id);
  const path = `/v1/authorities/${fleet.authority.id}`;
  const revoked = await ask('POST', `${path}/revoke`, { reason: 'keyCompromise' });
  expect(revoked).toMatchObject({ status: 200, body: { state: 'REVOKED', devices: 1 } });
  expect(await issue()).toBe(id);
  const runs = await database.db.select().from(outbox).where(like(outbox.workflowId, 'rotate-expiring/%'));
  expect(runs).toMatchObject([{ name: 'rotateExpiring', argument: { policy: 'default' } }]);
  expect(await actionsOf(`authority/${id}`)).toContain('authority.activated');
});

test('another root is a new trust bundle; the old one is retired only when nothing lives under it, and leaves the bundle', async () => {
  const next = await createRoot({ name: 'Longhaul root authority 2' });
  expect(
    (await ask('POST', '/v1/authorities', { kind: 'root', certificatePem: fleet.authority.certificatePem })).status,
  ).toBe(422);
  expect((await ask('POST', '/v1/authorities', { kind: 'root', certificatePem: next.certificatePem })).status).toBe(
    201,
  );
  expect((await ask('POST', '/v1/authorities', { kind: 'root', certificatePem: next.certificatePem })).status).toBe(
    409,
  );
  const device = await fleet.makeDevice();
  expect((await ask('GET', '/v1/trust-bundle')).body).toMatchObject({ version: 2, devices: 1, acknowledged: 0 });
  const retireRoot = () => ask('POST', `/v1/authorities/${fleet.rootId}/retire`);
  expect(await retireRoot()).toMatchObject({ status: 409, body: { detail: expect.stringContaining('issues') } });
  const id = await makeStandby(next);
  await database.db.update(authorities).set({ state: 'ACTIVE' }).where(eq(authorities.id, id));
  await ask('POST', `/v1/authorities/${fleet.authority.id}/retire`);
  expect(await retireRoot()).toMatchObject({ status: 409, body: { detail: expect.stringMatching(/^1 certificates/) } });
  await database.db.update(certificates).set({ state: 'REVOKED' }).where(eq(certificates.id, device.certificateId));
  expect(await isTrusted(fleet.authority.rootPem)).toBe(true);
  expect((await retireRoot()).status).toBe(200);
  expect((await ask('GET', '/v1/trust-bundle')).body).toMatchObject({
    version: 3,
    certificatesPem: next.certificatePem,
  });
  expect(await isTrusted(fleet.authority.rootPem)).toBe(false);
  const [last] = await database.db.execute<{ id: string }>(
    sql`select id from authorities where kind = 'root' and state = 'ACTIVE'`,
  );
  expect((await ask('POST', `/v1/authorities/${last?.id}/retire`)).status).toBe(409);
});

test('devices that live are counted, each once, and told of a root until they have acknowledged it', async () => {
  const twice = await fleet.makeDevice();
  const other = await fleet.makeDevice();
  await fleet.makeDevice({ deviceState: 'BLOCKED' });
  await fleet.makeDevice({ state: 'REVOKED' });
  await fleet.makeDevice({ notAfter: new Date() });
  await fleet.makeService();
  const { certificateId } = await fleet.makeDevice();
  const second = { deviceId: twice.deviceId, subject: twice.name };
  await database.db.update(certificates).set(second).where(eq(certificates.id, certificateId));
  const standing = async () => (await ask('GET', '/v1/trust-bundle')).body;
  expect(await standing()).toMatchObject({ version: 1, devices: 2, acknowledged: 2 });

  const { certificatePem } = await createRoot({ name: 'Longhaul root authority 2' });
  await ask('POST', '/v1/authorities', { kind: 'root', certificatePem });
  expect(await standing()).toMatchObject({ version: 2, devices: 2, acknowledged: 0 });
  const jobId = (await findTrustBundle(database.db))?.jobId ?? '';
  const tell = () => orderTrustBundle(database.db, { jobId, limit: 10 });
  expect(await tell()).toEqual([twice.deviceId, other.deviceId].toSorted());
  expect(await tell()).toEqual([]);
  const end = (status: 'SUCCEEDED' | 'FAILED', deviceId: string, hoursAgo = 0) =>
    database.db
      .update(executions)
      .set({ status, endedAt: new Date(Date.now() - hoursAgo * 3_600_000) })
      .where(and(eq(executions.deviceId, deviceId), isNull(executions.endedAt)));
  await end('SUCCEEDED', twice.deviceId, 1_000);
  const job = await makeJob(database.db);
  await queueJob(database.db, job, [other.deviceId]);
  await database.db.update(executions).set({ status: 'SUCCEEDED' }).where(eq(executions.jobId, job.id));
  expect(await standing()).toMatchObject({ devices: 2, acknowledged: 1 });

  // Who fails is told again after a day, and who fails again after two.
  for (const [hoursAgo, again] of [
    [25, true],
    [25, false],
  ] as const) {
    await end('FAILED', other.deviceId, hoursAgo);
    expect(await tell()).toEqual(again ? [other.deviceId] : []);
  }
});

test("an authority's own key is no device's", async () => {
  const [row] = await database.db.select().from(authorities).where(eq(authorities.id, fleet.authority.id));
  expect(await wasKeyUsed(database.db, row?.spkiSha256 ?? Buffer.alloc(0))).toBe(true);
});

test('a request whose root is retired at that moment stays a request', async () => {
  const { id } = await makePending();
  const { issuing } = await createAuthorities({ keyEncryptionKey: randomBytes(32) });
  await database.db.update(authorities).set({ state: 'RETIRED' }).where(eq(authorities.id, fleet.rootId));
  const { certificatePem, spkiSha256, notBefore, notAfter, subject: name } = issuing;
  const certified = { id, name, certificatePem, spkiSha256, notBefore, notAfter, parentId: fleet.rootId };
  expect(await certifyRequest(database.db, 'api-key/test', certified)).toBeUndefined();
  expect(await findAuthorityRequest(database.db, id)).toBeDefined();
});
