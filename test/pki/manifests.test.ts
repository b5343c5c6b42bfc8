import { createHmac, createPrivateKey, createPublicKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { openManifest, signManifest, type ManifestFault } from '../../pki/manifests.ts';
import { describeKey, makeReleaseKey, readPrivateKey, readReleaseKey } from '../../pki/release-keys.ts';
import { openOpenssl } from './openssl.ts';

const payload = Buffer.from('{"product":"pump" }');
const keys = {
  ES256: readPrivateKey(makeReleaseKey('ES256')),
  EdDSA: readPrivateKey(makeReleaseKey('EdDSA')),
};
const known = await Promise.all(Object.values(keys).map(describeKey));
const find = async (id: string) => known.find((key) => key.id === id);
const faultOf = async (jws: string) =>
  openManifest(jws, find).then(
    () => undefined,
    (error: ManifestFault) => error.fault,
  );

const encode = (value: unknown) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
const idOf = (algorithm: 'ES256' | 'EdDSA') => known.find((key) => key.algorithm === algorithm)?.id ?? '';
const header = { alg: 'ES256', typ: 'ota-manifest+jws', kid: idOf('ES256') };

/** A JWS with this header, signed as its maker pleases. */
async function craft(changed: object, { key = keys.ES256, body = payload }: { key?: KeyObject; body?: Buffer } = {}) {
  const signed = `${encode({ ...header, ...changed })}.${encode(body.toString())}`;
  const { subtle } = globalThis.crypto;
  const pkcs8 = key.export({ type: 'pkcs8', format: 'der' });
  const algorithm = key.asymmetricKeyType === 'ec' ? { name: 'ECDSA', namedCurve: 'P-256' } : { name: 'Ed25519' };
  const imported = await subtle.importKey('pkcs8', pkcs8, algorithm, false, ['sign']);
  const signature = await subtle.sign({ ...algorithm, hash: 'SHA-256' }, imported, Buffer.from(signed));
  return `${signed}.${Buffer.from(signature).toString('base64url')}`;
}

describe('a manifest', () => {
  test.each(['ES256', 'EdDSA'] as const)(
    'signed with %s is opened to the very bytes that were signed',
    async (algorithm) => {
      const jws = await signManifest(payload, keys[algorithm]);
      const opened = await openManifest(jws, find);
      expect(Buffer.from(opened.payload)).toEqual(payload);
      expect(opened.key.id).toBe(idOf(algorithm));
      expect(JSON.parse(Buffer.from(jws.split('.')[0] ?? '', 'base64url').toString())).toEqual({
        alg: algorithm,
        typ: 'ota-manifest+jws',
        kid: idOf(algorithm),
      });
    },
  );

  test('that is crafted as we craft them here is taken, so that what follows is refused for what it says', async () => {
    expect(await faultOf(await craft({}))).toBeUndefined();
  });

  test.each([
    ['another typ', { typ: 'JWT' }, 'wrong-type'],
    ['no typ', { typ: undefined }, 'wrong-type'],
    ['a kid that nobody has', { kid: 'x'.repeat(43) }, 'unknown-key'],
    ['no kid', { kid: undefined }, 'unknown-key'],
    ['a kid that is no text', { kid: ['x'] }, 'unknown-key'],
    ['the kid of another key', { kid: idOf('EdDSA') }, 'wrong-algorithm'],
    ['the kid of another key and its algorithm', { kid: idOf('EdDSA'), alg: 'EdDSA' }, 'bad-signature'],
    ['an algorithm that its key has not', { alg: 'EdDSA' }, 'wrong-algorithm'],
    ['the name that Ed25519 also goes by', { alg: 'Ed25519', kid: idOf('EdDSA') }, 'wrong-algorithm'],
    ['a key of its own', { jwk: createPublicKey(keys.ES256).export({ format: 'jwk' }) }, 'malformed'],
    ['the address of a key', { jku: 'https://example.com/keys' }, 'malformed'],
    ['an extension that it calls critical', { crit: ['b64'], b64: false }, 'malformed'],
  ])('with %s is refused', async (_, changed, fault) => {
    expect(await faultOf(await craft(changed))).toBe(fault);
  });

  test('of alg none is refused, with and without a signature', async () => {
    const signed = `${encode({ ...header, alg: 'none' })}.${encode(payload.toString())}`;
    expect(await faultOf(`${signed}.`)).toBe('malformed');
    expect(await faultOf(`${signed}.AAAA`)).toBe('wrong-algorithm');
    expect(await faultOf(`${encode({ ...header, alg: 'nOnE' })}.${encode(payload.toString())}.AAAA`)).toBe(
      'wrong-algorithm',
    );
  });

  test('of HS256 under the public key is refused', async () => {
    const [key] = known;
    const forms = [
      Buffer.from(key?.publicKeyPem ?? ''),
      createPublicKey(key?.publicKeyPem ?? '').export({ type: 'spki', format: 'der' }),
    ];
    for (const secret of forms) {
      const signed = `${encode({ ...header, alg: 'HS256' })}.${encode(payload.toString())}`;
      const mac = createHmac('sha256', secret).update(signed).digest('base64url');
      expect(await faultOf(`${signed}.${mac}`)).toBe('wrong-algorithm');
    }
  });

  test('that was changed after it was signed is refused, wherever it was', async () => {
    const jws = await craft({});
    for (const [index, character] of jws.split('').entries()) {
      if (character === '.' || index % 7 !== 0) continue;
      const other = character === 'A' ? 'B' : 'A';
      expect(await faultOf(jws.slice(0, index) + other + jws.slice(index + 1)), `at ${index}`).toBeDefined();
    }
  });

  test('is written in one way: other bits at the end of a part, padding, JSON and a signature in DER are refused', async () => {
    const [head = '', body = '', signature = ''] = (await craft({})).split('.');
    const last = signature.at(-1) ?? '';
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    const twin = alphabet[alphabet.indexOf(last) ^ 1] ?? '';
    expect(Buffer.from(signature.slice(0, -1) + twin, 'base64url')).toEqual(Buffer.from(signature, 'base64url'));
    expect(await faultOf(`${head}.${body}.${signature.slice(0, -1)}${twin}`)).toBe('malformed');
    expect(await faultOf(`${head}.${body}.${signature}==`)).toBe('malformed');
    expect(await faultOf(JSON.stringify({ protected: head, payload: body, signature }))).toBe('malformed');
    const der = createPrivateKey(keys.ES256.export({ type: 'pkcs8', format: 'pem' }));
    const inDer = sign('sha256', Buffer.from(`${head}.${body}`), der).toString('base64url');
    expect(await faultOf(`${head}.${body}.${inDer}`)).toBe('bad-signature');
  });

  test.each([
    '',
    '.',
    '..',
    'a.b',
    'a.b.c.d',
    'nonsense',
    `${encode('[]')}.e30.AAAA`,
    `${encode('x')}.e30.AAAA`,
    'e30.e30.AAAA ',
  ])('that is none ("%s") is refused', async (text) => {
    expect(await faultOf(text)).toMatch(/malformed|wrong-type/);
  });

  test('that is longer than a job document bears is refused before anything is done with it', async () => {
    expect(await faultOf(await craft({}, { body: Buffer.alloc(20_000, 'x') }))).toBe('malformed');
  });

  test('that signs nothing is refused', async () => {
    expect(await faultOf(await craft({}, { body: Buffer.alloc(0) }))).toBe('malformed');
  });
});

describe('a release key', () => {
  test('has the RFC 7638 thumbprint of its public half as its id', async () => {
    const pem = createPublicKey({
      format: 'jwk',
      key: {
        kty: 'OKP',
        crv: 'Ed25519',
        x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo',
      },
    }).export({ type: 'spki', format: 'pem' });
    // RFC 8037 A.3
    expect((await readReleaseKey(pem)).id).toBe('kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k');
  });

  test('that OpenSSL made is read', async () => {
    using openssl = openOpenssl();
    const p256 = openssl.makeKey('EC', 'ec_paramgen_curve:P-256');
    expect((await describeKey(readPrivateKey(p256))).algorithm).toBe('ES256');
    expect((await describeKey(readPrivateKey(openssl.makeKey('ED25519')))).algorithm).toBe('EdDSA');
  });

  const pemOf = (pair: { publicKey: KeyObject }) => pair.publicKey.export({ type: 'spki', format: 'pem' });
  test.each([
    ['on another curve', pemOf(generateKeyPairSync('ec', { namedCurve: 'P-384' }))],
    ['of RSA', pemOf(generateKeyPairSync('rsa', { modulusLength: 2_048 }))],
    ['on X25519', pemOf(generateKeyPairSync('x25519'))],
    ['with its private half', makeReleaseKey('ES256')],
    ['with its private half, encrypted', makeReleaseKey('EdDSA', 'secret')],
    ['that is none', '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n'],
    ['twice', (known[0]?.publicKeyPem ?? '').repeat(2)],
    ['with text around it', `x${known[0]?.publicKeyPem}`],
  ])('%s is refused', async (_, pem) => {
    await expect(readReleaseKey(pem)).rejects.toThrow(expect.objectContaining({ name: 'ReleaseKeyFault' }));
  });
});
