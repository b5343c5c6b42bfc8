import { createPublicKey, sign } from 'node:crypto';

import { bitString, decode, encode, objectIdentifier, sequence, tags } from '../../pki/der.ts';
import { oids } from '../../pki/object-identifiers.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { ecdsaWithSha256 } from '../../pki/signed.ts';

type Parts = {
  version?: Uint8Array;
  subject?: Uint8Array;
  publicKey?: Uint8Array;
  attributes?: Uint8Array[];
  signatureAlgorithm?: Uint8Array;
  privateKeyPem?: string;
};

/** A request in DER that openssl would not write: any part replaced, and the whole signed rightly all the same. */
export function craftCsr(parts: Parts = {}): Buffer {
  const privateKeyPem = parts.privateKeyPem ?? makeKeyPair().privateKeyPem;
  const info = sequence(
    parts.version ?? encode(tags.integer, Buffer.of(0)),
    parts.subject ?? sequence(),
    parts.publicKey ?? createPublicKey(privateKeyPem).export({ type: 'spki', format: 'der' }),
    encode(tags.context0, ...(parts.attributes ?? [])),
  );
  return sequence(info, parts.signatureAlgorithm ?? ecdsaWithSha256, bitString(sign('sha256', info, privateKeyPem)));
}

export const attribute = (id: string, ...values: Uint8Array[]): Buffer =>
  sequence(objectIdentifier(id), encode(tags.set, ...values));

export const extension = (id: string, value: Uint8Array): Buffer =>
  sequence(objectIdentifier(id), encode(tags.octetString, value));

/** An extensionRequest attribute that asks for these. */
export const extensionRequest = (...extensions: Uint8Array[]): Buffer =>
  attribute(oids.extensionRequest, sequence(...extensions));

/** One of the parts of a request with another value for its whole encoding; the signature is left as it was. */
export function replacePart(csr: Uint8Array, index: 0 | 1 | 2, change: (part: Buffer) => Uint8Array): Buffer {
  const parts = decode(csr).children.map((part) => Buffer.from(part.bytes));
  return sequence(...parts.map((part, position) => (position === index ? change(part) : part)));
}
