import { createPublicKey, generateKeyPairSync, verify } from 'node:crypto';
import { compactVerify } from 'jose';
import { describe, expect, test } from 'vitest';
import { createOrderSigner, readOrderKeys } from '../../pki/orders.ts';
import { describeKey, makeReleaseKey, readPrivateKey } from '../../pki/release-keys.ts';
import { openOpenssl } from './openssl.ts';

const pem = makeReleaseKey('ES256');
const privateKey = readPrivateKey(pem);
const order = {
  device: 'pump-1',
  job: '01900000-0000-7000-8000-000000000000',
  execution: 2,
  manifest: 'ab'.repeat(32),
};
const decode = (part = '') => JSON.parse(Buffer.from(part, 'base64url').toString());

describe('an order', () => {
  test('says whom it is to, for what, in which attempt, and until when, and nothing else', async () => {
    const signOrder = await createOrderSigner({ privateKey, lifetimeSeconds: 600, now: () => 1_790_000_000_999 });
    const [header, payload] = signOrder(order).split('.');
    expect(decode(header)).toEqual({ alg: 'ES256', typ: 'ota-order+jws', kid: (await describeKey(privateKey)).id });
    expect(decode(payload)).toEqual({ ...order, issuedAt: 1_790_000_000, expiresAt: 1_790_000_600 });
  });

  test('is one that others verify: another JOSE library, and RFC 7518 3.4 by hand', async () => {
    const jws = (await createOrderSigner({ privateKey, lifetimeSeconds: 600 }))(order);
    const key = createPublicKey(privateKey);
    const { payload } = await compactVerify(jws, key, { algorithms: ['ES256'] });
    expect(JSON.parse(Buffer.from(payload).toString())).toMatchObject(order);
    const [header = '', body = '', signature = ''] = jws.split('.');
    const bytes = Buffer.from(signature, 'base64url');
    expect(bytes).toHaveLength(64);
    expect(verify('sha256', Buffer.from(`${header}.${body}`), { key, dsaEncoding: 'ieee-p1363' }, bytes)).toBe(true);
  });

  test('is of now whenever it is signed', async () => {
    let now = 1_000_000;
    const signOrder = await createOrderSigner({ privateKey, lifetimeSeconds: 60, now: () => now });
    const issuedAt = () => decode(signOrder(order).split('.')[1]).issuedAt;
    expect(issuedAt()).toBe(1_000);
    now += 5_000;
    expect(issuedAt()).toBe(1_005);
  });

  test('is signed on P-256 and nothing else', async () => {
    const edwards = readPrivateKey(makeReleaseKey('EdDSA'));
    await expect(createOrderSigner({ privateKey: edwards, lifetimeSeconds: 60 })).rejects.toThrow('P-256');
    const { privateKey: other } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
    await expect(createOrderSigner({ privateKey: other, lifetimeSeconds: 60 })).rejects.toThrow('P-256');
  });
});

describe('a file of order keys', () => {
  const idsOf = async (pems: string) =>
    Promise.all(readOrderKeys(pems).map(async (key) => (await describeKey(key)).id));

  test('holds one or several, in their order, also as OpenSSL makes them', async () => {
    using openssl = openOpenssl();
    const others = [makeReleaseKey('ES256'), openssl.makeKey('EC', 'ec_paramgen_curve:P-256')];
    const pems = [pem, ...others];
    const ids = await Promise.all(pems.map(async (one) => (await describeKey(readPrivateKey(one))).id));
    expect(await idsOf(pem)).toEqual(ids.slice(0, 1));
    expect(await idsOf(pems.join('\n'))).toEqual(ids);
  });

  test.each([
    ['nothing', ''],
    ['a public key', createPublicKey(privateKey).export({ type: 'spki', format: 'pem' })],
    ['a text beside a key', `${pem}, and more`],
    ['a key cut short', pem.slice(0, -20)],
    ['a key and another cut short', `${pem}${pem.slice(0, -20)}`],
    ['a key that is encrypted', makeReleaseKey('ES256', 'secret')],
    ['a key on Ed25519', `${pem}${makeReleaseKey('EdDSA')}`],
    ['a block that is no key', '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n'],
  ])('with %s is refused, and not quoted', (_, text) => {
    expect(() => readOrderKeys(text)).toThrow(expect.objectContaining({ name: 'ReleaseKeyFault' }));
    expect(() => readOrderKeys(text)).toThrow(expect.not.objectContaining({ message: expect.stringMatching('BEGIN') }));
  });
});
