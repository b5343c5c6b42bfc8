import { execFileSync } from 'node:child_process';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { isRequestType, readRequest, writeCertificates } from '../../doors/est-bodies.ts';
import { judgeCsr } from '../../pki/csr-policy.ts';
import { encodeCsrAttributes } from '../../pki/csr-attributes.ts';
import { decode } from '../../pki/der.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { createAuthorities } from '../../pki/authority.ts';

const der = Buffer.from(makeCsr(makeKeyPair()).replaceAll(/-----[A-Z ]+-----|\s/g, ''), 'base64');
const base64 = der.toString('base64');

test.each([
  ['on one line', base64],
  ['with line breaks', base64.replaceAll(/.{1,64}/g, '$&\n')],
  ['with CRLF, and an empty line at the end', `${base64.replaceAll(/.{1,76}/g, '$&\r\n')}\r\n`],
  ['without padding', base64.replace(/=+$/, '')],
])('a request %s is read', (_, text) => {
  expect(readRequest(Buffer.from(text))).toEqual(der);
});

test.each([
  ['PEM', makeCsr(makeKeyPair())],
  ['nothing', ''],
  ['DER', der],
  ['other text', '{}'],
  ['loose bits', 'TR=='],
])('%s is not read', (_, body) => {
  expect(readRequest(Buffer.from(body))).toBeUndefined();
});

test('only the media type of requests is taken', () => {
  expect(['application/pkcs10', 'Application/PKCS10; charset=x', 'application/pkcs10 ;a'].map(isRequestType)).toEqual([
    true,
    true,
    true,
  ]);
  expect([undefined, '', 'application/pkcs10x', 'application/pkcs7-mime'].map(isRequestType)).not.toContain(true);
});

test('what is answered is strict DER on one line, which openssl reads', async () => {
  const { root, issuing } = await createAuthorities({ keyEncryptionKey: new Uint8Array(32) });
  const text = writeCertificates(root.certificatePem + issuing.certificatePem);
  expect(text).toMatch(/^[A-Za-z0-9+/]+=*$/);
  expect(decode(Buffer.from(text, 'base64')).children).toHaveLength(2);
  const input = Buffer.from(text, 'base64');
  const printed = execFileSync('openssl', ['pkcs7', '-inform', 'DER', '-print_certs'], { input, encoding: 'utf8' });
  for (const { certificatePem } of [root, issuing]) expect(printed).toContain(certificatePem);
});

test.each([
  [['P-256', 'RSA'] as const, 'prime256v1'],
  [['P-384'] as const, 'secp384r1'],
  [['RSA'] as const, 'rsaEncryption'],
  [[] as const, 'prime256v1'],
])('of the keys %j a device is told one that openssl can name', (keys, name) => {
  const input = encodeCsrAttributes([...keys]);
  const printed = execFileSync('openssl', ['asn1parse', '-inform', 'DER'], { input, encoding: 'utf8' });
  expect(printed).toContain(name);
});

/** Texts that are nearly a request: the bytes of one, cut, changed, and broken into lines anywhere. */
const nearly = fc
  .tuple(fc.nat(der.length - 1), fc.nat(255), fc.nat(der.length), fc.constantFrom('', '\n', ' ', '=', '\0', '-'))
  .map(([at, byte, end, mark]) => {
    const changed = Buffer.from(der);
    changed[at] = byte;
    const text = changed.subarray(0, end).toString('base64');
    return Buffer.from(text.slice(0, at) + mark + text.slice(at));
  });
const anything = fc.oneof(nearly, fc.uint8Array({ maxLength: 2_000 }), fc.string({ maxLength: 500 }).map(Buffer.from));

test('20,000 bodies are read or refused, and leave nothing behind', { timeout: 300_000 }, async () => {
  const read = async (body: Uint8Array) => {
    const request = readRequest(body);
    if (request) await judgeCsr(request);
  };
  const property = fc.asyncProperty(anything, read);
  await fc.assert(property, { numRuns: 2_000 });
  const before = process.memoryUsage().rss;
  await fc.assert(property, { numRuns: 18_000 });
  expect((process.memoryUsage().rss - before) / 1024 ** 2).toBeLessThan(150);
});
