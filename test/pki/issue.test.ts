import { createPublicKey, hash, X509Certificate } from 'node:crypto';

import { afterAll, describe, expect, test } from 'vitest';

import { AuthorityEnding, openAuthority, type Authority, type IssueRequest } from '../../pki/authority.ts';
import { judgeCsr } from '../../pki/csr-policy.ts';
import { bitString, sequence } from '../../pki/der.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { makeAuthorities } from './authorities.ts';
import { derOf, openOpenssl } from './openssl.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());

const minuteMs = 60 * 1000;
const dayMs = 24 * 60 * minuteMs;
const certificateId = 'c0'.repeat(32);
const publicKey = spkiOf(makeKeyPair().publicKeyPem);
const common = { certificateId, publicKey, lifetimeMs: 365 * dayMs };

const { issuing, material } = await makeAuthorities();
const authority = await openAuthority(material);

const requests: IssueRequest[] = [
  { ...common, profile: 'device', subject: { device: 'pump-1:a_b.C' } },
  { ...common, profile: 'device', subject: { certificate: certificateId } },
  { ...common, profile: 'claim', subject: { claim: '019ab7de-line-4' } },
  { ...common, profile: 'service', subject: { service: 'dashboards' } },
  { ...common, profile: 'server', subject: { server: ['mqtt.example.org', 'localhost', '192.0.2.7', '2001:db8::1'] } },
];

describe('what is issued', () => {
  test.each(requests)('$profile $subject: openssl takes it strictly, for its one purpose', async (request) => {
    const { pem } = await authority.issue(request);
    const purposes = request.profile === 'server' ? ['sslserver', 'sslclient'] : ['sslclient', 'sslserver'];
    const [own, foreign] = purposes.map((purpose) => verify(authority, pem, '-purpose', purpose));
    expect(own).toMatch(/: OK\n$/);
    expect(foreign).toContain('unsuitable certificate purpose');
  });

  test.each(requests)('$profile $subject: its extensions are these and no others', async (request) => {
    const text = openssl.describe((await authority.issue(request)).pem);
    const extensions = [...text.matchAll(/X509v3 ([A-Z].+?): ?(critical)?\s*\n\s+(.+?)\s*\n/g)].map((match) =>
      match.slice(1),
    );
    const purpose = request.profile === 'server' ? 'TLS Web Server Authentication' : 'TLS Web Client Authentication';
    expect(extensions).toEqual([
      ['Basic Constraints', 'critical', 'CA:FALSE'],
      ['Key Usage', 'critical', 'Digital Signature'],
      ['Extended Key Usage', undefined, purpose],
      ['Authority Key Identifier', undefined, expect.any(String)],
      ['Subject Key Identifier', undefined, expect.any(String)],
      ['Subject Alternative Name', undefined, expect.any(String)],
    ]);
  });

  test.each([
    [requests[0], 'CN=pump-1:a_b.C', 'URI:urn:longhaul:device:pump-1:a_b.C'],
    [requests[1], `CN=${certificateId}`, `URI:urn:longhaul:certificate:${certificateId}`],
    [requests[2], 'CN=019ab7de-line-4', 'URI:urn:longhaul:claim:019ab7de-line-4'],
    [requests[3], 'CN=dashboards', 'URI:urn:longhaul:service:dashboards'],
    [
      requests[4],
      'CN=mqtt.example.org',
      'DNS:mqtt.example.org, DNS:localhost, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:1',
    ],
  ])('names stand in the common name and in the alternative name: %#', async (request, subject, alternativeName) => {
    if (!request) throw new Error('No such request');
    const issued = await authority.issue(request);
    const certificate = new X509Certificate(issued.der);
    expect(issued.subject).toBe(subject);
    expect(certificate.subject).toBe(subject);
    expect(certificate.subjectAltName).toBe(alternativeName);
  });

  test('what is told about a certificate is what it says', async () => {
    const issued = await authority.issue({ ...common, profile: 'device', subject: { device: 'pump-1' } });
    const certificate = new X509Certificate(issued.der);
    expect(issued).toEqual({
      certificateId,
      authorityId: 'authority-1',
      der: certificate.raw,
      pem: certificate.toString(),
      chainPem: certificate.toString() + issuing.certificatePem,
      serial: certificate.serialNumber.toLowerCase(),
      spkiSha256: hash('sha256', publicKey, 'buffer'),
      fingerprint: hash('sha256', certificate.raw, 'buffer'),
      subject: certificate.subject,
      notBefore: certificate.validFromDate,
      notAfter: certificate.validToDate,
    });
    expect(spkiOf(certificate.publicKey.export({ type: 'spki', format: 'pem' }))).toEqual(publicKey);
    expect(certificate.checkIssued(new X509Certificate(issuing.der))).toBe(true);
  });

  test('serial numbers are positive, of 16 bytes and all different', async () => {
    const issued = await Promise.all(
      Array.from({ length: 500 }, () => authority.issue({ ...common, profile: 'service', subject: { service: 's' } })),
    );
    const serials = issued.map(({ serial }) => serial);
    expect(new Set(serials).size).toBe(500);
    for (const serial of serials) expect(serial).toMatch(/^[4-7][0-9a-f]{31}$/);
  });

  test.each([
    ['P-384', openssl.makeKey('EC', 'ec_paramgen_curve:P-384')],
    ['RSA', openssl.makeKey('RSA', 'rsa_keygen_bits:2048')],
  ])('a key of %s is certified too', async (_, key) => {
    const request: IssueRequest = {
      ...common,
      profile: 'device',
      subject: { device: 'pump-1' },
      publicKey: spkiOf(key),
    };
    expect(verify(authority, (await authority.issue(request)).pem, '-purpose', 'sslclient')).toMatch(/: OK\n$/);
  });

  test('the place of the list of revoked ones is named where there is one', async () => {
    const listing = await openAuthority({ ...material, crlUrl: 'https://ca.example.org/crl/' });
    const { pem } = await listing.issue({ ...common, profile: 'device', subject: { device: 'pump-1' } });
    expect(openssl.describe(pem)).toContain('URI:https://ca.example.org/crl/authority-1.crl\n');
    expect(verify(listing, pem, '-purpose', 'sslclient')).toMatch(/: OK\n$/);
  });

  test('of a request nothing is taken over but the key', async () => {
    const key = openssl.makeKey('EC', 'ec_paramgen_curve:P-256');
    const planted = ['-addext', 'subjectAltName=DNS:planted', '-addext', 'nsComment=planted'];
    const verdict = await judgeCsr(openssl.makeCsr(key, '/O=planted/CN=planted', ...planted), {});
    if ('refused' in verdict) throw new Error(verdict.refused.detail);
    const request: IssueRequest = { ...common, profile: 'device', subject: { device: 'pump-1' }, ...verdict.accepted };
    const { der } = await authority.issue(request);
    expect(Buffer.from(der).includes('planted')).toBe(false);
  });
});

describe('validity', () => {
  const now = new Date('2026-11-23T12:00:00.750Z');
  const device: IssueRequest = { ...common, profile: 'device', subject: { device: 'pump-1' }, now };

  test('it begins five minutes ago and ends after the lifetime, in whole seconds', async () => {
    const { notBefore, notAfter } = await authority.issue({ ...device, lifetimeMs: 90 * minuteMs });
    expect(notBefore).toEqual(new Date('2026-11-23T11:55:00Z'));
    expect(notAfter).toEqual(new Date('2026-11-23T13:30:00Z'));
  });

  test('it ends a day before its issuer at the latest', async () => {
    const { notAfter } = await authority.issue({ ...device, lifetimeMs: 100 * 365 * dayMs });
    expect(notAfter).toEqual(new Date(issuing.notAfter.getTime() - dayMs));
  });

  test.each([
    [0, 30],
    [2, 1],
    [3, 30],
    [4, 7],
  ])('an issuer with too little life left for request %i (%i days) issues nothing', async (index, minimumDays) => {
    const request = requests[index];
    if (!request) throw new Error('No such request');
    const last = issuing.notAfter.getTime() - (minimumDays + 1) * dayMs;
    await expect(authority.issue({ ...request, now: new Date(last) })).resolves.toBeDefined();
    await expect(authority.issue({ ...request, now: new Date(last + 1) })).rejects.toThrow(AuthorityEnding);
  });

  test('years from 2050 on are written so that openssl reads them', async () => {
    const lasting = await makeAuthorities({ lifetimes: { rootMs: 40 * 365 * dayMs, issuingMs: 40 * 365 * dayMs } });
    const opened = await openAuthority(lasting.material);
    const { pem, notAfter } = await opened.issue({ ...device, lifetimeMs: 30 * 365 * dayMs });
    expect(new X509Certificate(pem).validToDate).toEqual(notAfter);
    expect(notAfter.getUTCFullYear()).toBe(2056);
    expect(verify(opened, pem, '-attime', `${notAfter.getTime() / 1000 - 1}`)).toMatch(/: OK\n$/);
  });
});

describe('what is not issued', () => {
  test.each([
    'pump-1,O=admin',
    'pump-1/O=admin',
    'pump-1+CN=x',
    '#0c0161',
    '"pump"',
    'pump\0',
    'pump 1',
    'pump\n',
    '../pump',
    'pump/+/#',
    '$aws',
    '-pump',
    'pümp',
    'x'.repeat(64),
    '',
  ])('a certificate for a device named %j', async (device) => {
    await expect(authority.issue({ ...common, profile: 'device', subject: { device } })).rejects.toThrow(RangeError);
  });

  test.each([['pump 1'], ['*.example.org'], ['a..b'], ['-a.org'], ['https://a.org'], ['1.2.3.4/8'], ['']])(
    'a certificate for a server named %j',
    async (host) => {
      await expect(authority.issue({ ...common, profile: 'server', subject: { server: [host] } })).rejects.toThrow(
        RangeError,
      );
    },
  );

  test('a certificate for a server without a name', async () => {
    await expect(authority.issue({ ...common, profile: 'server', subject: { server: [] } })).rejects.toThrow(
      RangeError,
    );
  });

  test('a certificate that names another certificate', async () => {
    const subject = { certificate: 'd1'.repeat(32) };
    await expect(authority.issue({ ...common, profile: 'device', subject })).rejects.toThrow(RangeError);
  });

  test.each([
    ['P-224', openssl.makeKey('EC', 'ec_paramgen_curve:P-224')],
    ['Ed25519', openssl.makeKey('ED25519')],
    ['RSA of 1024 bits', openssl.makeKey('RSA', 'rsa_keygen_bits:1024')],
  ])('a certificate for a key of %s', async (_, key) => {
    const request: IssueRequest = {
      ...common,
      profile: 'device',
      subject: { device: 'pump-1' },
      publicKey: spkiOf(key),
    };
    await expect(authority.issue(request)).rejects.toThrow(/must/);
  });

  test('a certificate for a point that is cut short', async () => {
    const point = publicKey.subarray(26, 26 + 33);
    const algorithm = publicKey.subarray(2, 23);
    const request = { ...common, publicKey: sequence(algorithm, bitString(point)) };
    const refused = authority.issue({ ...request, profile: 'device', subject: { device: 'pump-1' } });
    await expect(refused).rejects.toThrow(/must be whole/);
  });

  test.each([0, -1, Number.NaN, 999])('a certificate that lives for %d ms', async (lifetimeMs) => {
    const request: IssueRequest = { ...common, profile: 'device', subject: { device: 'pump-1' }, lifetimeMs };
    await expect(authority.issue(request)).rejects.toThrow(RangeError);
  });
});

test('a request of our own is one that openssl takes, with the common name in one piece', () => {
  for (const name of ['pump-1', 'pump-1,O=admin', '#0c0161', '"pump"']) {
    const der = derOf(makeCsr(makeKeyPair(), name));
    expect(openssl.acceptsCsr(der)).toBe(true);
    const subject = openssl.run(
      'req',
      '-inform',
      'DER',
      '-in',
      openssl.write('own.der', der),
      '-noout',
      '-subject',
      '-nameopt',
      'multiline',
    );
    expect(subject.match(/commonName\s+= (.*)/)?.[1]).toBe(name);
  }
  expect(openssl.acceptsCsr(derOf(makeCsr(makeKeyPair())))).toBe(true);
});

function verify({ rootPem, certificatePem }: Authority, leaf: string, ...options: string[]): string {
  return openssl.verify({ root: rootPem, issuing: certificatePem, leaf }, ...options);
}

function spkiOf(key: string): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' });
}
