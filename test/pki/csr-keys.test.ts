import { createPublicKey, hash } from 'node:crypto';

import { afterAll, describe, expect, test } from 'vitest';

import { judgeCsr } from '../../pki/csr-policy.ts';
import { bitString, encode, objectIdentifier, sequence, tags } from '../../pki/der.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { oids } from '../../pki/object-identifiers.ts';
import { craftCsr } from './crafted-csr.ts';
import { derOf, openOpenssl } from './openssl.ts';
import { verdictOn } from './verdict.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());

const p256 = openssl.makeKey('EC', 'ec_paramgen_curve:P-256');
const rsa2048 = openssl.makeKey('RSA', 'rsa_keygen_bits:2048');

describe('keys', () => {
  test.each([
    ['P-256', p256, 'accepted P-256'],
    ['P-384', openssl.makeKey('EC', 'ec_paramgen_curve:P-384'), 'accepted P-384'],
    ['RSA of 2048 bits', rsa2048, 'accepted RSA-2048'],
    ['RSA of 4096 bits', openssl.makeKey('RSA', 'rsa_keygen_bits:4096'), 'accepted RSA-4096'],
    ['RSA of 1024 bits', openssl.makeKey('RSA', 'rsa_keygen_bits:1024'), 'weak-key'],
    ['RSA with the exponent 3', openssl.makeKey('RSA', 'rsa_keygen_bits:2048', 'rsa_keygen_pubexp:3'), 'weak-exponent'],
    ['P-224', openssl.makeKey('EC', 'ec_paramgen_curve:P-224'), 'unsupported-curve'],
    ['P-521', openssl.makeKey('EC', 'ec_paramgen_curve:P-521'), 'unsupported-curve'],
    ['secp256k1', openssl.makeKey('EC', 'ec_paramgen_curve:secp256k1'), 'unsupported-curve'],
    ['brainpool', openssl.makeKey('EC', 'ec_paramgen_curve:brainpoolP256r1'), 'unsupported-curve'],
    ['Ed25519', openssl.makeKey('ED25519'), 'unsupported-key'],
    ['Ed448', openssl.makeKey('ED448'), 'unsupported-key'],
    ['RSA for PSS only', openssl.makeKey('RSA-PSS', 'rsa_keygen_bits:2048'), 'unsupported-key'],
    [
      'P-256 by its parameters',
      openssl.makeKey('EC', 'ec_paramgen_curve:P-256', 'ec_param_enc:explicit'),
      'explicit-parameters',
    ],
  ])('a request by %s is judged by its key', async (_, key, verdict) => {
    expect(await verdictOn(openssl.makeCsr(key, '/'))).toBe(verdict);
  });

  test.each([
    [2047, 65_537n, 'weak-key'],
    [2048, 65_537n, 'wrong-signature'],
    [4096, 65_537n, 'wrong-signature'],
    [4097, 65_537n, 'oversized-key'],
    [16_384, 65_537n, 'oversized-key'],
    [2048, 65_535n, 'weak-exponent'],
    [2048, 2n ** 64n - 1n, 'wrong-signature'],
    [2048, 2n ** 64n + 1n, 'weak-exponent'],
  ])('the limits of RSA: %i bits with the exponent %i', async (bits, exponent, verdict) => {
    const signatureAlgorithm = sequence(objectIdentifier(oids.sha256WithRsa), encode(tags.null));
    expect(await verdictOn(craftCsr({ publicKey: rsaPublicKey(bits, exponent), signatureAlgorithm }))).toBe(verdict);
  });

  test.each(['compressed', 'hybrid'])('a key has one encoding only: a %s point is refused', async (form) => {
    const key = openssl.run('ec', '-in', openssl.write('p256.pem', p256), '-conv_form', form);
    expect(await verdictOn(openssl.makeCsr(key, '/'))).toBe('compressed-point');
  });

  test('a key has one encoding only: RSA without its null parameters is refused', async () => {
    const pkcs1 = createPublicKey(rsa2048).export({ type: 'pkcs1', format: 'der' });
    const publicKey = sequence(sequence(objectIdentifier(oids.rsaEncryption)), bitString(pkcs1));
    expect(await verdictOn(craftCsr({ publicKey }))).toBe('malformed-key');
  });

  test('a point beside its curve is refused', async () => {
    const publicKey = createPublicKey(p256).export({ type: 'spki', format: 'der' });
    publicKey.writeUInt8(publicKey.readUInt8(90) ^ 1, 90);
    expect(await verdictOn(craftCsr({ publicKey }))).toBe('malformed-key');
  });

  test('the key of an authority is refused', async () => {
    const spki = createPublicKey(p256).export({ type: 'spki', format: 'der' });
    const forbiddenSpki = [hash('sha256', 'another', 'buffer'), hash('sha256', spki, 'buffer')];
    expect(await verdictOn(openssl.makeCsr(p256, '/'), { forbiddenSpki })).toBe('forbidden-key');
  });

  test('an accepted key is handed on exactly as it stands in the request, with its hash', async () => {
    const spki = createPublicKey(p256).export({ type: 'spki', format: 'der' });
    const verdict = await judgeCsr(openssl.makeCsr(p256, '/CN=pump-1/O=admin'), {});
    expect(verdict).toEqual({
      accepted: {
        publicKey: Uint8Array.from(spki),
        spkiSha256: hash('sha256', spki, 'buffer'),
        keyAlgorithm: 'P-256',
        requested: { subject: { commonName: 'pump-1', organization: 'admin' }, names: ['pump-1'] },
      },
    });
  });
});

describe('signatures', () => {
  test.each([
    ['sha256', 'accepted P-256', 'accepted RSA-2048'],
    ['sha384', 'accepted P-256', 'accepted RSA-2048'],
    ['sha512', 'accepted P-256', 'accepted RSA-2048'],
    ['sha1', 'unsupported-signature', 'unsupported-signature'],
    ['sha224', 'unsupported-signature', 'unsupported-signature'],
    ['sha3-256', 'unsupported-signature', 'unsupported-signature'],
  ])('a request signed with %s is judged by its digest', async (digest, ellipticVerdict, rsaVerdict) => {
    expect(await verdictOn(openssl.makeCsr(p256, '/', `-${digest}`))).toBe(ellipticVerdict);
    expect(await verdictOn(openssl.makeCsr(rsa2048, '/', `-${digest}`))).toBe(rsaVerdict);
  });

  test('a signature by PSS is refused', async () => {
    const csr = openssl.makeCsr(rsa2048, '/', '-sigopt', 'rsa_padding_mode:pss');
    expect(await verdictOn(csr)).toBe('unsupported-signature');
  });

  test('a request signed by another key than its own is refused', async () => {
    const publicKey = createPublicKey(makeKeyPair().publicKeyPem).export({ type: 'spki', format: 'der' });
    expect(await verdictOn(craftCsr({ publicKey }))).toBe('wrong-signature');
  });

  test('a request that was changed after it was signed is refused', async () => {
    const der = derOf(openssl.makeCsr(p256, '/CN=pump-1'));
    der.write('2', der.indexOf('pump-1') + 5);
    expect(await verdictOn(der)).toBe('wrong-signature');
  });

  test('an elliptic signature algorithm with parameters is refused', async () => {
    const signatureAlgorithm = sequence(objectIdentifier(oids.ecdsaWithSha256), encode(tags.null));
    expect(await verdictOn(craftCsr({ signatureAlgorithm }))).toBe('unsupported-signature');
  });

  test('the algorithm of another kind of key is refused', async () => {
    const signatureAlgorithm = sequence(objectIdentifier(oids.sha256WithRsa));
    expect(await verdictOn(craftCsr({ signatureAlgorithm }))).toBe('unsupported-signature');
  });
});

/** An RSA key of exactly so many bits, to which nobody has the private one. */
function rsaPublicKey(bits: number, exponent: bigint): Buffer {
  const [n, e] = [base64url(2n ** BigInt(bits) - 1n), base64url(exponent)];
  const key = createPublicKey({ key: { kty: 'RSA', n, e }, format: 'jwk' });
  return key.export({ type: 'spki', format: 'der' });
}

function base64url(value: bigint): string {
  const digits = value.toString(16);
  return Buffer.from(digits.padStart(digits.length + (digits.length % 2), '0'), 'hex').toString('base64url');
}
