import { createPrivateKey, createPublicKey, generateKeyPairSync, sign } from 'node:crypto';

import { bitString, encode, sequence, tags } from './der.ts';
import { encodeName } from './names.ts';
import { encodePem } from './pem.ts';
import { ecdsaWithSha256, signed } from './signed.ts';
import type { Signer } from './signers.ts';

/** PKCS#8 and SubjectPublicKeyInfo, in PEM. */
export type KeyPair = { privateKeyPem: string; publicKeyPem: string };

/** A fresh P-256 pair, for devices that have their keys made for them and for simulated ones. */
export function makeKeyPair(): KeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });
  return { privateKeyPem: privateKey, publicKeyPem: publicKey };
}

/** A certification request (RFC 2986) in PEM, signed by a P-256 key; its subject is empty without a common name. */
export function makeCsr({ privateKeyPem }: Pick<KeyPair, 'privateKeyPem'>, commonName?: string): string {
  const privateKey = createPrivateKey(privateKeyPem);
  const version = encode(tags.integer, Buffer.of(0));
  const subject = commonName === undefined ? sequence() : encodeName(commonName);
  const publicKey = createPublicKey(privateKeyPem).export({ type: 'spki', format: 'der' });
  const info = sequence(version, subject, publicKey, encode(tags.context0));
  return encodePem('CERTIFICATE REQUEST', sequence(info, ecdsaWithSha256, bitString(sign('sha256', info, privateKey))));
}

/** A certification request for a key on P-256 that somebody else holds. */
export async function makeRequest(signer: Signer, commonName: string): Promise<string> {
  const version = encode(tags.integer, Buffer.of(0));
  const info = sequence(version, encodeName(commonName), signer.spki, encode(tags.context0));
  return encodePem('CERTIFICATE REQUEST', await signed(info, signer));
}
