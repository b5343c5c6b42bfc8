import { generateKeyPairSync } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeReleaseKey } from '../../pki/release-keys.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { makeSigner } from '../support/releases.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const register = (publicKeyPem: string, more: object = {}) =>
  api.ask('POST', '/v1/release-keys', { name: 'release key of 2026', publicKeyPem, ...more });

test.each(['ES256', 'EdDSA'] as const)('a key of %s is registered under its thumbprint', async (algorithm) => {
  const { id, publicKeyPem } = await makeSigner(algorithm);
  const { status, body } = await register(publicKeyPem, { products: ['pump', 'valve'] });
  expect(status).toBe(201);
  expect(body).toMatchObject({ id, algorithm, publicKeyPem, products: ['pump', 'valve'], revokedAt: null });
  expect((await api.ask('GET', `/v1/release-keys/${id}`)).body).toEqual(body);
  expect((await api.ask('GET', `/v1/release-keys?filter=id==${id}`)).body.items).toEqual([body]);
  const entries = (await api.ask('GET', `/v1/audit?filter=subject==release-key/${id}`)).body.items;
  expect(entries).toMatchObject([{ action: 'release-key.created', data: { products: ['pump', 'valve'] } }]);
});

test('a key is here once, whatever its text looks like, and a revoked one never comes back', async () => {
  const { id, publicKeyPem } = await makeSigner();
  await register(publicKeyPem);
  expect((await register(`\n${publicKeyPem.replaceAll('\n', '\r\n')}\n`)).status).toBe(409);
  const revoked = await api.ask('POST', `/v1/release-keys/${id}/revoke`, { reason: 'lost' });
  expect(revoked).toMatchObject({ status: 200, body: { id, revocationReason: 'lost' } });
  expect((await api.ask('POST', `/v1/release-keys/${id}/revoke`, { reason: 'lost' })).status).toBe(409);
  expect((await register(publicKeyPem)).status).toBe(409);
  expect((await api.ask('POST', `/v1/release-keys/${'x'.repeat(43)}/revoke`, { reason: 'lost' })).status).toBe(404);
  const entries = (await api.ask('GET', `/v1/audit?filter=subject==release-key/${id}`)).body.items;
  expect(entries).toMatchObject([{ action: 'release-key.revoked', data: { reason: 'lost', releases: 0 } }, {}]);
});

test.each([
  ['a private key', makeReleaseKey('ES256'), 'nobody but its owner'],
  ['an encrypted private key', makeReleaseKey('EdDSA', 'passphrase'), 'nobody but its owner'],
  ['a key of RSA', pemOf(generateKeyPairSync('rsa', { modulusLength: 2_048 })), 'P-256 or Ed25519'],
  ['a key on P-384', pemOf(generateKeyPairSync('ec', { namedCurve: 'P-384' })), 'P-256 or Ed25519'],
  ['no key', 'nonsense', 'not one public key'],
])('%s is refused, and not repeated', async (_, pem, detail) => {
  const answer = await register(pem);
  expect(answer).toMatchObject({ status: 422, body: { type: 'urn:longhaul:problem:key-refused' } });
  expect(answer.body.errors).toMatchObject([{ pointer: '/publicKeyPem', detail: expect.stringContaining(detail) }]);
  expect(answer.text).not.toContain(pem.split('\n')[1] ?? pem);
});

function pemOf({ publicKey }: { publicKey: { export(options: object): string | Buffer } }): string {
  return publicKey.export({ type: 'spki', format: 'pem' }).toString();
}

test.each([
  ['/name', { name: '' }],
  ['/name', { name: 'a\u0000b' }],
  ['/products', { products: [] }],
  ['/products/0', { products: ['../pump'] }],
  ['/privateKey', { privateKey: 'x' }],
])('a bad %s is refused', async (pointer, part) => {
  const { publicKeyPem } = await makeSigner();
  expect(await register(publicKeyPem, part)).toMatchObject({ status: 422, body: { errors: [{ pointer }] } });
});
