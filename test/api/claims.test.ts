import { createPrivateKey, X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  await api.ask('POST', '/v1/templates', {
    name: 'line',
    definition: { namePattern: '${serial}', parameters: ['serial'] },
  });
});
afterAll(() => database[Symbol.asyncDispose]());

test('a claim comes with a certificate of our authority, its key in this answer only', async () => {
  const { status, body } = await api.ask('POST', '/v1/claims', { template: 'line', usesMax: 5, expiresInHours: 2 });
  expect(status).toBe(201);
  const certificate = new X509Certificate(body.certificate.certificatePem);
  expect(certificate.checkPrivateKey(createPrivateKey(body.certificate.privateKey ?? ''))).toBe(true);
  expect(certificate.checkIssued(new X509Certificate(api.authority.certificatePem))).toBe(true);
  expect(certificate.subject).toBe(`CN=${body.id}`);
  const listed = await api.ask('GET', '/v1/claims');
  expect(listed.body.items[0]).toMatchObject({ id: body.id, uses: 0, usesMax: 5, revokedAt: null });
  expect(listed.text).not.toContain('PRIVATE');
  const row = await api.ask('GET', `/v1/certificates/${body.certificateId}`);
  expect(row.body).toMatchObject({ kind: 'claim', state: 'ACTIVE', pem: certificate.toString() });
});

test('a revoked claim takes its certificate along, on the feed and in the audit', async () => {
  const { body } = await api.ask('POST', '/v1/claims', { template: 'line' });
  api.told.length = 0;
  expect((await api.ask('DELETE', `/v1/claims/${body.id}`)).status).toBe(204);
  expect(api.told).toEqual([{ feed: true }]);
  expect((await api.ask('GET', `/v1/certificates/${body.certificateId}`)).body).toMatchObject({ state: 'REVOKED' });
  const feed = await database.db.$client`select kind from feed where subject = ${body.certificateId}`;
  expect([...feed]).toEqual([{ kind: 'certificate' }]);
  expect((await api.ask('DELETE', `/v1/claims/${body.id}`)).status).toBe(409);
  expect((await api.ask('DELETE', `/v1/claims/${crypto.randomUUID()}`)).status).toBe(404);
  expect((await api.ask('DELETE', '/v1/claims/x')).status).toBe(404);
});

test.each([
  ['/template', { template: 'absent' }],
  ['/template', { template: '../line' }],
  ['/usesMax', { usesMax: 0 }],
  ['/usesMax', { usesMax: 1e9 }],
  ['/usesMax', { usesMax: '5' }],
  ['/ratePerMinute', { ratePerMinute: 0.5 }],
  ['/expiresInHours', { expiresInHours: -1 }],
  ['/privateKey', { privateKey: 'mine' }],
])('a claim with a bad %s is refused', async (pointer, part) => {
  const answer = await api.ask('POST', '/v1/claims', { template: 'line', ...part });
  expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer }] } });
});

test('a token is shown once, and tells of its claim what it may', async () => {
  const request = { kind: 'token', template: 'line', deviceNames: ['Pump-1'], keySha256: 'ab'.repeat(32) };
  const headers = { 'idempotency-key': crypto.randomUUID() };
  const { status, body } = await api.ask('POST', '/v1/claims', request, headers);
  expect(status).toBe(201);
  const { token } = body as unknown as { token: string };
  expect(token).toMatch(/^lhc_[0-9a-f]{32}_[\w-]{43}$/);
  expect(body).toMatchObject({ kind: 'token', usesMax: 1, certificateId: null, deviceNames: ['pump-1'] });
  const again = await api.ask('POST', '/v1/claims', request, headers);
  expect(again.body.id).toBe(body.id);
  for (const { text } of [again, await api.ask('GET', '/v1/claims')]) expect(text).not.toContain(token.slice(-43));
  expect((await api.ask('DELETE', `/v1/claims/${body.id}`)).status).toBe(204);
});

test.each([
  ['factory', {}, 24 * 3_600],
  ['interactive', { purpose: 'interactive' }, 15 * 60],
  ['said', { expiresInSeconds: 90 }, 90],
])('a token whose time is %s expires then', async (_, part, seconds) => {
  const { body } = await api.ask('POST', '/v1/claims', { kind: 'token', template: 'line', ...part });
  const { expiresAt } = body as unknown as { expiresAt: string };
  expect(Math.abs(Date.parse(expiresAt) - Date.now() - seconds * 1_000)).toBeLessThan(10_000);
});

test.each([
  ['/kind', { kind: 'manufacturer' }],
  ['/expiresInSeconds', { kind: 'token', expiresInSeconds: 1e8 }],
  ['/expiresInSeconds', { expiresInSeconds: 90 }],
  ['/purpose', { purpose: 'factory' }],
  ['/deviceNames/0', { kind: 'token', deviceNames: ['../x'] }],
  ['/deviceNames', { kind: 'token', deviceNames: [] }],
  ['/keySha256', { kind: 'token', keySha256: 'AB' }],
])('a claim with a bad %s is refused as well', async (pointer, part) => {
  const answer = await api.ask('POST', '/v1/claims', { template: 'line', ...part });
  expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer }] } });
});

test('a service gets a certificate in its name for its own key, and a key serves once', async () => {
  const key = makeKeyPair();
  const { status, body } = await api.ask('POST', '/v1/services', { name: 'dashboard', csr: makeCsr(key) });
  expect(status).toBe(201);
  const certificate = new X509Certificate(body.certificatePem);
  expect(certificate.subject).toBe('CN=dashboard');
  expect(certificate.checkPrivateKey(createPrivateKey(key.privateKeyPem))).toBe(true);
  expect((await api.ask('POST', '/v1/services', { name: 'other', csr: makeCsr(key) })).status).toBe(409);
  const listed = await api.ask('GET', '/v1/certificates?filter=kind==service');
  expect(listed.body.items).toMatchObject([{ id: body.certificateId, subject: 'dashboard', state: 'ACTIVE' }]);
});

test('a service request that names somebody else, or is no request, is refused with its reason', async () => {
  const csr = makeCsr(makeKeyPair(), 'somebody');
  expect((await api.ask('POST', '/v1/services', { name: 'dashboard', csr })).body.type).toBe(
    'urn:longhaul:problem:csr-refused',
  );
  const answer = await api.ask('POST', '/v1/services', { name: 'dashboard', csr: 'nonsense' });
  expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer: '/csr' }] } });
});
