import { createPublicKey, hash, randomBytes, X509Certificate } from 'node:crypto';
import { inspect } from 'node:util';

import { afterAll, describe, expect, test } from 'vitest';

import { createAuthorities, openAuthority } from '../../pki/authority.ts';
import { makeAuthorities } from './authorities.ts';
import { openOpenssl } from './openssl.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());

const dayMs = 24 * 60 * 60 * 1000;

describe('authorities', () => {
  test('an issuing authority under its root is one that openssl takes strictly', async () => {
    const { root, issuing } = await makeAuthorities();
    const chain = { root: root.certificatePem, issuing: root.certificatePem, leaf: issuing.certificatePem };
    expect(openssl.verify(chain)).toMatch(/: OK\n$/);
    expect(openssl.verify({ ...chain, leaf: root.certificatePem })).toMatch(/: OK\n$/);
  });

  test('the root is of P-384 and may have one authority below it, the issuing one of P-256 and none', async () => {
    const { root, issuing } = await makeAuthorities();
    const rootText = openssl.describe(root.certificatePem);
    expect(rootText).toMatch(/NIST CURVE: P-384[^]*Basic Constraints: critical\s+CA:TRUE, pathlen:1\n/);
    const issuingText = openssl.describe(issuing.certificatePem);
    expect(issuingText).toMatch(/NIST CURVE: P-256[^]*Basic Constraints: critical\s+CA:TRUE, pathlen:0\n/);
    for (const text of [rootText, issuingText]) {
      expect(text).toMatch(/Key Usage: critical\s+Certificate Sign, CRL Sign\n/);
      expect(text.match(/Signature Algorithm: (.*)/)?.[1]).toBe('ecdsa-with-SHA384');
    }
  });

  test('what is told about an authority is what its certificate says', async () => {
    const { root, issuing } = await makeAuthorities({ names: { root: 'Pumps', issuing: 'Pumps 1' } });
    for (const told of [root, issuing]) {
      const certificate = new X509Certificate(told.der);
      const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
      expect(told).toMatchObject({
        certificatePem: certificate.toString(),
        serial: certificate.serialNumber.toLowerCase(),
        subject: certificate.subject,
        fingerprint: hash('sha256', certificate.raw, 'buffer'),
        spkiSha256: hash('sha256', spki, 'buffer'),
        notBefore: certificate.validFromDate,
        notAfter: certificate.validToDate,
      });
    }
  });

  test('the name of an authority is one common name, whatever stands in it', async () => {
    const { root, issuing } = await makeAuthorities({ names: { root: 'Pumps,O=x', issuing: '#0c0161' } });
    expect(new X509Certificate(root.der).subject).toBe(String.raw`CN=Pumps\,O=x`);
    expect(new X509Certificate(issuing.der).subject).toBe(String.raw`CN=\#0c0161`);
  });

  test('an issuing authority does not outlive its root', async () => {
    const { root, issuing } = await makeAuthorities({ lifetimes: { rootMs: 100 * dayMs, issuingMs: 200 * dayMs } });
    expect(issuing.notAfter).toEqual(root.notAfter);
  });

  test('the key that is handed out for the root is the one of its certificate', async () => {
    const { root } = await makeAuthorities();
    expect(createPublicKey(root.privateKeyPem).equals(new X509Certificate(root.der).publicKey)).toBe(true);
  });
});

describe('opening an authority', () => {
  test('another key encryption key opens nothing', async () => {
    const { material } = await makeAuthorities();
    await expect(openAuthority({ ...material, keyEncryptionKey: randomBytes(32) })).rejects.toThrow('does not open');
  });

  test('a key encryption key has 32 bytes', async () => {
    const { material } = await makeAuthorities();
    await expect(createAuthorities({ keyEncryptionKey: randomBytes(16) })).rejects.toThrow('32 bytes');
    await expect(openAuthority({ ...material, keyEncryptionKey: randomBytes(33) })).rejects.toThrow('32 bytes');
  });

  test('a stored key opens only whole and unaltered', async () => {
    const { material } = await makeAuthorities();
    for (const index of material.encryptedKey.keys()) {
      const altered = material.encryptedKey.with(index, (material.encryptedKey[index] ?? 0) ^ 1);
      await expect(openAuthority({ ...material, encryptedKey: altered })).rejects.toThrow('The sealed key');
      const cut = material.encryptedKey.slice(0, index);
      await expect(openAuthority({ ...material, encryptedKey: cut })).rejects.toThrow('The sealed key');
    }
  });

  test('a stored key opens only beside its own certificate', async () => {
    const { material } = await makeAuthorities();
    const { material: other } = await makeAuthorities({ keyEncryptionKey: material.keyEncryptionKey });
    await expect(openAuthority({ ...other, encryptedKey: material.encryptedKey })).rejects.toThrow('The sealed key');
  });

  test('an authority under another root is refused', async () => {
    const { material } = await makeAuthorities();
    const { root } = await makeAuthorities();
    await expect(openAuthority({ ...material, rootPem: root.certificatePem })).rejects.toThrow('under the root');
  });

  test('the key is stored encrypted, and no opened authority or error shows it', async () => {
    const { material } = await makeAuthorities();
    const { root } = await makeAuthorities();
    const error: unknown = await openAuthority({ ...material, rootPem: root.certificatePem }).catch((reason) => reason);
    const shown = inspect({ error, authority: await openAuthority(material) }, { depth: 9, showHidden: true });
    expect(shown).not.toMatch(/PRIVATE KEY|30 81 87 02 01 00|48, 129, 135/);
    expect(Buffer.from(material.encryptedKey).includes(ecPrivateKeyHeader)).toBe(false);
  });
});

/** The beginning of PKCS#8 for a P-256 key: the algorithm and its curve. */
const ecPrivateKeyHeader = Buffer.from('301306072a8648ce3d020106082a8648ce3d030107', 'hex');
