import { afterAll, describe, expect, test } from 'vitest';

import { judgeCsr } from '../../pki/csr-policy.ts';
import { decode, encode, objectIdentifier, sequence, tags } from '../../pki/der.ts';
import { oids } from '../../pki/object-identifiers.ts';
import { encodePem } from '../../pki/pem.ts';
import { attribute, craftCsr, replacePart } from './crafted-csr.ts';
import { derOf, openOpenssl } from './openssl.ts';
import { verdictOn } from './verdict.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());

const p256 = openssl.makeKey('EC', 'ec_paramgen_curve:P-256');
const rsa2048 = openssl.makeKey('RSA', 'rsa_keygen_bits:2048');

/** A signature's length varies, and with it whether the base64 of the request ends in padding. */
function makePaddedCsr(): string {
  for (;;) {
    const pem = openssl.makeCsr(p256, '/CN=pump-1');
    if (pem.includes('=')) return pem;
  }
}

describe('form', () => {
  const pem = openssl.makeCsr(p256, '/CN=pump-1', '-addext', 'keyUsage=digitalSignature');
  const der = derOf(pem);

  test.each([
    ['DER', der],
    ['PEM with Windows line ends and blank lines around it', `\r\n${pem.replaceAll('\n', '\r\n')}\n\n`],
    ['PEM under the old label', pem.replaceAll('CERTIFICATE REQUEST', 'NEW CERTIFICATE REQUEST')],
    ['PEM with its base64 on one line', encodePem('CERTIFICATE REQUEST', der).replaceAll(/\n(?!-)/g, '')],
  ])('%s is accepted', async (_, csr) => {
    expect(await verdictOn(csr)).toBe('accepted P-256');
  });

  test.each([
    ['nothing', '', 'not-pem'],
    ['no byte', Buffer.of(), 'not-der'],
    ['text', 'a certificate, please', 'not-pem'],
    ['a certificate', encodePem('CERTIFICATE', der), 'not-pem'],
    ['two labels', pem.replace('BEGIN CERT', 'BEGIN NEW CERT'), 'not-pem'],
    ['two blocks', pem + pem, 'several-pem-blocks'],
    ['a private key beside the request', p256 + pem, 'several-pem-blocks'],
    ['text before the block', `hello\n${pem}`, 'not-pem'],
    ['text after the block', `${pem}hello`, 'not-pem'],
    ['base64 without its padding', makePaddedCsr().replaceAll('=', ''), 'not-pem'],
    ['a foreign character', pem.replace('\nM', '\n*M'), 'not-pem'],
    ['PEM in bytes', Buffer.from(pem), 'not-der'],
    ['a byte too many', Buffer.concat([der, Buffer.of(0)]), 'not-der'],
    ['a byte too many in PEM', encodePem('CERTIFICATE REQUEST', Buffer.concat([der, Buffer.of(0)])), 'not-der'],
    ['a byte too few', der.subarray(0, -1), 'not-der'],
    ['two requests in one', Buffer.concat([der, der]), 'not-der'],
    ['an indefinite length', Buffer.concat([Buffer.of(0x30, 0x80), decode(der).contents, Buffer.of(0, 0)]), 'not-der'],
    [
      'a length in too many bytes',
      replacePart(der, 1, (part) => Buffer.concat([Buffer.of(0x30, 0x81), part.subarray(1)])),
      'not-der',
    ],
    ['a signature in two pieces', replacePart(der, 2, (part) => encode(0x23, part)), 'not-der'],
    [
      'a signature with unused bits',
      replacePart(der, 2, (part) => Buffer.concat([part.subarray(0, 2), Buffer.of(1), part.subarray(3)])),
      'not-a-request',
    ],
    ['a fourth part', sequence(decode(der).contents, encode(tags.null)), 'not-a-request'],
    ['nesting without end', nested(2000), 'not-der'],
    ['a version to come', craftCsr({ version: encode(tags.integer, Buffer.of(1)) }), 'not-a-request'],
    ['just an integer', encode(tags.integer, Buffer.of(0)), 'not-a-request'],
  ])('%s is refused', async (_, csr, reason) => {
    expect(await verdictOn(csr)).toBe(reason);
  });

  test('a request of 16 KiB is judged, one byte more is refused, however it is wrapped', async () => {
    const padding = 16 * 1024 - sized(15_000).length + 15_000;
    expect(sized(padding)).toHaveLength(16 * 1024);
    expect(await verdictOn(sized(padding))).toBe('accepted RSA-2048');
    expect(await verdictOn(encodePem('CERTIFICATE REQUEST', sized(padding)))).toBe('accepted RSA-2048');
    expect(await verdictOn(sized(padding + 1))).toBe('too-large');
    expect(await verdictOn(encodePem('CERTIFICATE REQUEST', sized(padding + 1)))).toBe('too-large');
    expect(await verdictOn(' '.repeat(64 * 1024) + pem)).toBe('too-large');
  });

  test('a refusal names its reason in a stable code and says why in a sentence', async () => {
    for (const csr of ['', '-----BEGIN', Buffer.of(0x30), openssl.makeCsr(rsa2048, '/', '-sha1')]) {
      const verdict = await judgeCsr(csr, {});
      expect(verdict).toEqual({
        refused: { reason: expect.stringMatching(/^[a-z]+(-[a-z]+)*$/), detail: expect.stringMatching(/^[A-Z].*\.$/) },
      });
    }
  });
});

function nested(depth: number): Buffer {
  return depth === 0 ? sequence() : sequence(nested(depth - 1));
}

/** A request in DER that carries so many bytes of padding. */
function sized(padding: number): Buffer {
  const signatureAlgorithm = sequence(objectIdentifier(oids.sha256WithRsa), encode(tags.null));
  const attributes = [attribute(oids.commonName, encode(tags.octetString, Buffer.alloc(padding, 'x')))];
  return craftCsr({ attributes, privateKeyPem: rsa2048, signatureAlgorithm });
}
