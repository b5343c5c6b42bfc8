import { createPublicKey, randomBytes, X509Certificate } from 'node:crypto';

import { afterAll, describe, expect, test } from 'vitest';

import { openAuthority } from '../../pki/authority.ts';
import { openRootListSigner, revocationReasons, type RevocationReason, type RevokedEntry } from '../../pki/crl.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { encodePem } from '../../pki/pem.ts';
import { makeAuthorities } from './authorities.ts';
import { openOpenssl } from './openssl.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());

const { root, issuing, material } = await makeAuthorities();
const authority = await openAuthority(material);
const rootLists = openRootListSigner({ id: 'root', ...root });
const dayMs = 86_400_000;
const now = new Date();
const times = { thisUpdate: now, nextUpdate: new Date(now.getTime() + 7 * dayMs) };

async function issue(device: string) {
  const publicKey = createPublicKey(makeKeyPair().publicKeyPem).export({ type: 'spki', format: 'der' });
  const certificateId = randomBytes(32).toString('hex');
  return authority.issue({ profile: 'device', certificateId, subject: { device }, publicKey, lifetimeMs: 90 * dayMs });
}

/** What `openssl verify -crl_check_all` says about the leaf, given the lists of both authorities. */
async function judge(leaf: string, entries: RevokedEntry[], options: { rootEntries?: RevokedEntry[] } = {}) {
  const lists = [
    await authority.crl({ ...times, number: 7, entries }),
    await rootLists.crl({ ...times, number: 7, entries: options.rootEntries ?? [] }),
  ];
  const file = openssl.write('lists.pem', lists.map((der) => encodePem('X509 CRL', der)).join(''));
  const chain = { root: root.certificatePem, issuing: issuing.certificatePem, leaf };
  return openssl.verify(chain, '-crl_check_all', '-CRLfile', file);
}

const describeList = (der: Uint8Array) =>
  openssl.run('crl', '-noout', '-text', '-inform', 'DER', '-in', openssl.write('list.crl', der));

const revoked = (serial: string, reason: RevocationReason = 'keyCompromise'): RevokedEntry => ({
  serial,
  reason,
  revokedAt: new Date('2026-11-20T08:30:00Z'),
});

describe('a revocation list', () => {
  test('openssl lets a certificate pass that is not on it, and refuses one that is', async () => {
    const [good, bad] = [await issue('pump-1'), await issue('pump-2')];
    const entries = [revoked(bad.serial)];
    expect(await judge(good.pem, entries)).toMatch(/: OK\n$/);
    expect(await judge(bad.pem, entries)).toContain('certificate revoked');
  });

  test('of the root: openssl refuses everything under an authority that is on it', async () => {
    const { pem } = await issue('pump-1');
    const serial = new X509Certificate(issuing.der).serialNumber;
    expect(await judge(pem, [], { rootEntries: [revoked(serial, 'cACompromise')] })).toContain('certificate revoked');
  });

  test('without entries is good too, and has no list of them (RFC 5280 5.1.2.6)', async () => {
    expect(await judge((await issue('pump-1')).pem, [])).toMatch(/: OK\n$/);
    expect(describeList(await authority.crl({ ...times, number: 1, entries: [] }))).toContain(
      'No Revoked Certificates.',
    );
  });

  test('says its version, number, key, scope and times', async () => {
    const text = describeList(await authority.crl({ ...times, number: 1_795_000_000, entries: [] }));
    expect(text).toContain('Version 2 (0x1)');
    expect(text).toMatch(/X509v3 CRL Number:\s+1795000000/);
    expect(text).toMatch(/X509v3 Authority Key Identifier:/);
    expect(text).toMatch(/X509v3 Issuing Distribution Point: critical\s+Only User Certificates/);
    expect(text).toContain('Issuer: CN');
    const ofRoot = describeList(await rootLists.crl({ ...times, number: 128, entries: [] }));
    expect(ofRoot).toMatch(/Issuing Distribution Point: critical\s+Only CA Certificates/);
    expect(ofRoot).toContain('ecdsa-with-SHA384');
    expect(ofRoot).toMatch(/X509v3 CRL Number:\s+128/);
  });

  test.each(Object.keys(revocationReasons) as RevocationReason[])(
    'gives %s as the reason of an entry',
    async (reason) => {
      const text = describeList(
        await authority.crl({ ...times, number: 1, entries: [revoked('7f'.repeat(16), reason)] }),
      );
      const words = (shown: string) => shown.toLowerCase().replaceAll(/\s/g, '');
      expect(text).toContain('Revocation Date: Nov 20 08:30:00 2026 GMT');
      expect(words(text)).toContain(`reasoncode:${words(reason)}signature`);
    },
  );

  test.each([
    ['00', '00'],
    ['1', '01'],
    ['0080', '80'],
    ['ff'.repeat(20), 'FF'.repeat(20)],
  ])('takes any serial number that a certificate may have: %s', async (serial, shown) => {
    const text = describeList(await authority.crl({ ...times, number: 1, entries: [revoked(serial)] }));
    expect(text).toContain(`Serial Number: ${shown}\n`);
  });

  test.each(['1999-12-31T23:59:59Z', '2026-02-03T04:05:06Z', '2049-12-31T23:59:59Z', '2050-01-01T00:00:00Z'])(
    'tells the second of a revocation: %s',
    async (at) => {
      const entry = { ...revoked('01'), revokedAt: new Date(at) };
      const text = describeList(await authority.crl({ ...times, number: 1, entries: [entry] }));
      const [, shown = ''] = /Revocation Date: (.*)/.exec(text) ?? [];
      expect(new Date(shown)).toEqual(new Date(at));
    },
  );

  test('writes years from 2050 on so that openssl reads them', async () => {
    const entry = { ...revoked('01'), revokedAt: new Date('2050-01-01T00:00:00Z') };
    const list = await authority.crl({
      ...times,
      nextUpdate: new Date('2051-01-01T00:00:00Z'),
      number: 1,
      entries: [entry],
    });
    expect(describeList(list)).toContain('Next Update: Jan  1 00:00:00 2051 GMT');
    expect(describeList(list)).toContain('Revocation Date: Jan  1 00:00:00 2050 GMT');
  });

  test('of a hundred thousand entries holds each of them, and openssl verifies it', async () => {
    const leaf = await issue('pump-1');
    const entries = Array.from({ length: 100_000 }, (_, index) =>
      revoked(`4${index.toString(16).padStart(31, '0')}`, index % 2 ? 'superseded' : 'keyCompromise'),
    );
    expect(await judge(leaf.pem, entries)).toMatch(/: OK\n$/);
    const last = { ...revoked(leaf.serial), reason: 'superseded' as const };
    expect(await judge(leaf.pem, [...entries, last])).toContain('certificate revoked');
    const der = await authority.crl({ ...times, number: 2, entries });
    const text = openssl.run('crl', '-noout', '-text', '-inform', 'DER', '-in', openssl.write('list.crl', der));
    expect(text.match(/Serial Number: /g)).toHaveLength(100_000);
  });

  test('is not signed with the key of another', async () => {
    const other = await makeAuthorities();
    expect(() =>
      openRootListSigner({ id: 'root', certificatePem: root.certificatePem, privateKeyPem: other.root.privateKeyPem }),
    ).toThrow('not the key of the certificate');
  });
});
