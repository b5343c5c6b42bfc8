import { createHmac, createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { readPublicKeys } from '../../embedded/device-jws.ts';
import { openManifest, requireFit } from '../../embedded/device-manifest.ts';
import { signManifest } from '../../pki/manifests.ts';
import { contentOf, hardware, makeReleaseKey, manifestOf, product, refusal } from './releases.ts';

const key = makeReleaseKey();
const edwards = makeReleaseKey('EdDSA');
const stranger = makeReleaseKey();
const keys = readPublicKeys([key.publicKeyPem, edwards.publicKeyPem]);
const manifest = manifestOf(contentOf(Buffer.from('an image')));
const good = key.sign(manifest);

describe('a device takes a manifest', () => {
  test.each([
    ['ES256', key],
    ['EdDSA', edwards],
  ])('that one of its release keys has signed with %s', (_, signer) => {
    const opened = openManifest(signer.sign({ ...manifest, notes: 'for nobody' }), keys);
    expect(opened).toMatchObject({ version: '2.0.0', artifact: manifest.artifact, downgrade: false });
  });

  test('that the product has signed', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', {
      namedCurve: 'P-256',
      privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
      publicKeyEncoding: { type: 'spki', format: 'pem' },
    });
    const jws = await signManifest(Buffer.from(JSON.stringify(manifest)), createPrivateKey(privateKey));
    expect(openManifest(jws, readPublicKeys([publicKey])).product).toBe(product);
  });

  test('and no other', () => {
    const [header = '', payload = '', signature = ''] = good.split('.');
    const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const unsigned = encode({ alg: 'none', typ: 'ota-manifest+jws', kid: key.kid });
    const hs256 = `${encode({ alg: 'HS256', typ: 'ota-manifest+jws', kid: key.kid })}.${payload}`;
    const mac = createHmac('sha256', key.publicKeyPem).update(hs256).digest('base64url');
    const edited = encode({ ...manifest, version: '9.9.9' });
    const refusals = {
      unsigned: `${unsigned}.${payload}.`,
      'none with a signature': `${unsigned}.${payload}.${signature}`,
      'the public key as a secret': `${hs256}.${mac}`,
      'another key': stranger.sign(manifest),
      'another key under a known name': stranger.sign(manifest, { kid: key.kid }),
      'a known key under another algorithm': edwards.sign(manifest, { alg: 'ES256' }),
      'no key': key.sign(manifest, { kid: undefined }),
      'another type': key.sign(manifest, { typ: 'JWT' }),
      'an extension that must be understood': key.sign(manifest, { crit: ['exp'] }),
      edited: `${header}.${edited}.${signature}`,
      'half a signature': `${header}.${payload}.${signature.slice(0, 43)}`,
      'no JWS': 'manifest',
      'four parts': `${good}.${signature}`,
      'no JSON': `${Buffer.from('{').toString('base64url')}.${payload}.${signature}`,
      'no object': key.sign('manifest'),
      'a counter that no number holds': key.sign({ ...manifest, securityCounter: 2 ** 53 }),
      'a counter below zero': key.sign({ ...manifest, securityCounter: -1 }),
      'a digest that is a path': key.sign({
        ...manifest,
        artifact: { ...manifest.artifact, sha256: '../../etc/passwd' },
      }),
      'no end': key.sign({ ...manifest, expires: undefined }),
    };
    const said = Object.entries(refusals).map(([name, jws]) => [name, refusal(() => openManifest(jws, keys))]);
    expect(Object.fromEntries(said)).toEqual({
      unsigned: 'MALFORMED_MANIFEST',
      'none with a signature': 'WRONG_ALGORITHM',
      'the public key as a secret': 'WRONG_ALGORITHM',
      'another key': 'UNKNOWN_KEY',
      'another key under a known name': 'BAD_SIGNATURE',
      'a known key under another algorithm': 'WRONG_ALGORITHM',
      'no key': 'UNKNOWN_KEY',
      'another type': 'MALFORMED_MANIFEST',
      'an extension that must be understood': 'MALFORMED_MANIFEST',
      edited: 'BAD_SIGNATURE',
      'half a signature': 'BAD_SIGNATURE',
      'no JWS': 'MALFORMED_MANIFEST',
      'four parts': 'MALFORMED_MANIFEST',
      'no JSON': 'MALFORMED_MANIFEST',
      'no object': 'MALFORMED_MANIFEST',
      'a counter that no number holds': 'MALFORMED_MANIFEST',
      'a counter below zero': 'MALFORMED_MANIFEST',
      'a digest that is a path': 'MALFORMED_MANIFEST',
      'no end': 'MALFORMED_MANIFEST',
    });
  });

  test('that fits what it is', () => {
    const device = { product, hardware, version: '1.5.0', counter: 7, nowMs: Date.parse('2027-01-01T00:00:00Z') };
    const fits = (change: object) =>
      refusal(() => requireFit(openManifest(key.sign({ ...manifest, securityCounter: 7, ...change }), keys), device));
    expect(fits({})).toBeUndefined();
    expect(fits({ allowedFrom: ['1.4.0', '1.5.0'], securityCounter: 8 })).toBeUndefined();
    expect(fits({ securityCounter: 6, downgrade: true })).toBeUndefined();
    expect(fits({ product: 'valve-firmware' })).toBe('WRONG_PRODUCT');
    expect(fits({ hardware: ['rev-a'] })).toBe('WRONG_HARDWARE');
    expect(fits({ hardware: [] })).toBe('WRONG_HARDWARE');
    expect(fits({ expires: '2027-01-01T00:00:01Z' })).toBeUndefined();
    expect(fits({ expires: '2027-01-01T00:00:00Z' })).toBe('EXPIRED');
    expect(fits({ allowedFrom: ['1.4.0'] })).toBe('WRONG_VERSION');
    expect(fits({ allowedFrom: [] })).toBe('WRONG_VERSION');
    expect(fits({ securityCounter: 6 })).toBe('COUNTER_TOO_LOW');
  });

  test('only by keys that sign manifests', () => {
    const { publicKey } = generateKeyPairSync('rsa', {
      modulusLength: 2048,
      publicKeyEncoding: { type: 'spki', format: 'pem' },
      privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    });
    expect(() => readPublicKeys([publicKey])).toThrow('P-256 or Ed25519');
  });
});
