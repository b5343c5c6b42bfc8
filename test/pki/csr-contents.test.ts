import { afterAll, describe, expect, test } from 'vitest';

import { judgeCsr } from '../../pki/csr-policy.ts';
import { encode, sequence, tags } from '../../pki/der.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { oids } from '../../pki/object-identifiers.ts';
import { encodeName } from '../../pki/names.ts';
import { attribute, craftCsr, extension, extensionRequest } from './crafted-csr.ts';
import { openOpenssl } from './openssl.ts';
import { verdictOn } from './verdict.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());

const p256 = openssl.makeKey('EC', 'ec_paramgen_curve:P-256');

describe('what a request asks for', () => {
  test.each([
    ['basicConstraints=CA:FALSE', 'accepted P-256'],
    ['basicConstraints=critical,CA:TRUE', 'asks-for-authority'],
    ['keyUsage=digitalSignature', 'accepted P-256'],
    ['keyUsage=digitalSignature,keyCertSign', 'asks-to-sign-certificates'],
    ['keyUsage=critical,cRLSign', 'asks-to-sign-certificates'],
    ['extendedKeyUsage=clientAuth', 'accepted P-256'],
    ['extendedKeyUsage=clientAuth,serverAuth', 'asks-for-server-auth'],
    ['extendedKeyUsage=anyExtendedKeyUsage', 'asks-for-server-auth'],
  ])('%s: %s', async (asked, verdict) => {
    expect(await verdictOn(openssl.makeCsr(p256, '/', '-addext', asked))).toBe(verdict);
  });

  const harmless = extension(oids.basicConstraints, sequence());

  test.each([
    ['two extensionRequest attributes', [extensionRequest(harmless), extensionRequest()]],
    [
      'one under each of its numbers',
      [extensionRequest(), attribute(oids.microsoftExtensionRequest, sequence(harmless))],
    ],
    ['one of two values', [attribute(oids.extensionRequest, sequence(), sequence())]],
    ['one of no value', [attribute(oids.extensionRequest)]],
  ])('%s are refused', async (_, attributes) => {
    expect(await verdictOn(craftCsr({ attributes }))).toBe('several-extension-requests');
  });

  test('an authority is refused under the number that Microsoft gave the attribute, too', async () => {
    const authority = extension(oids.basicConstraints, sequence(encode(tags.boolean, Buffer.of(0xff))));
    const attributes = [attribute(oids.microsoftExtensionRequest, sequence(authority))];
    expect(await verdictOn(craftCsr({ attributes }))).toBe('asks-for-authority');
  });

  test('the same extension twice is refused', async () => {
    expect(await verdictOn(craftCsr({ attributes: [extensionRequest(harmless, harmless)] }))).toBe(
      'repeated-extension',
    );
  });

  test('an extension that nobody here judges may hold what it likes', async () => {
    const attributes = [extensionRequest(extension('2b0601040187690101', Buffer.from('no DER')))];
    expect(await verdictOn(craftCsr({ attributes }))).toBe('accepted P-256');
  });

  test('an extension that is not DER is refused', async () => {
    const attributes = [extensionRequest(extension(oids.keyUsage, Buffer.of(0x03, 0x80, 0, 0)))];
    expect(await verdictOn(craftCsr({ attributes }))).toBe('malformed-contents');
  });
});

describe('names', () => {
  const expectedNames = ['pump-1'];

  test.each([
    ['no name', '/', [], 'accepted P-256'],
    ['the expected common name', '/CN=pump-1', [], 'accepted P-256'],
    ['an organisation, which is never taken over', '/O=Pumps/CN=pump-1', [], 'accepted P-256'],
    ['another common name', '/CN=pump-2', [], 'wrong-name'],
    ['another spelling', '/CN=Pump-1', [], 'wrong-name'],
    ['the expected and another common name', '/CN=pump-1/CN=pump-2', [], 'wrong-name'],
    ['the expected and another common name in one part', '/CN=pump-1+CN=pump-2', [], 'wrong-name'],
    ['an injected part', '/CN=pump-1,O=admin', [], 'wrong-name'],
    ['an injected slash', '/CN=pump-1\\/O=admin', [], 'wrong-name'],
    ['a letter that looks the same', '/CN=рump-1', [], 'wrong-name'],
    ['the expected DNS name', '/', ['-addext', 'subjectAltName=DNS:pump-1'], 'accepted P-256'],
    ['the expected URI', '/', ['-addext', 'subjectAltName=URI:urn:longhaul:device:pump-1'], 'accepted P-256'],
    ['another DNS name', '/CN=pump-1', ['-addext', 'subjectAltName=DNS:pump-1,DNS:pump-2'], 'wrong-name'],
    ['the URI of a claim', '/', ['-addext', 'subjectAltName=URI:urn:longhaul:claim:pump-1'], 'wrong-name'],
    ['an IP address', '/', ['-addext', 'subjectAltName=IP:127.0.0.1'], 'wrong-name'],
    ['another mail address', '/', ['-addext', 'subjectAltName=email:pump-1@example.org'], 'wrong-name'],
  ])('where a name is expected, %s is judged', async (_, subject, options, verdict) => {
    const csr = openssl.makeCsr(p256, subject, ...(subject.includes('+') ? ['-multivalue-rdn'] : []), ...options);
    expect(await verdictOn(csr, { expectedNames })).toBe(verdict);
  });

  test('a name with a NUL behind the expected one is another name', async () => {
    expect(await verdictOn(craftCsr({ subject: encodeName('pump-1\0.evil') }), { expectedNames })).toBe('wrong-name');
  });

  test.each([
    ['an empty list of alternative names', sequence()],
    ['an empty alternative name', sequence(encode(tags.uriName))],
  ])('an empty common name and %s are no names', async (_, alternativeNames) => {
    const attributes = [extensionRequest(extension(oids.subjectAlternativeName, alternativeNames))];
    const csr = craftCsr({ subject: encodeName(''), attributes });
    expect(await verdictOn(csr, { expectedNames })).toBe('accepted P-256');
    expect(await verdictOn(csr, { expectedNames: [] })).toBe('accepted P-256');
  });

  test('where none is expected yet, a name is not looked at', async () => {
    const csr = openssl.makeCsr(p256, '/CN=AWS IoT Certificate', '-addext', 'subjectAltName=DNS:anything');
    expect(await verdictOn(csr)).toBe('accepted P-256');
    expect(await verdictOn(csr, { expectedNames: [] })).toBe('wrong-name');
  });

  test('a refusal quotes the expected name and nothing of the request', async () => {
    const verdict = await judgeCsr(makeCsr(makeKeyPair(), '<script>planted'), { expectedNames });
    expect(verdict).toEqual({
      refused: { reason: 'wrong-name', detail: 'The common name must be absent, empty or pump-1.' },
    });
  });
});
