import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { calculateJwkThumbprint } from 'jose';

/** ES256 is what secure elements and small TLS libraries verify; EdDSA is with Ed25519, and for who can. */
export type ReleaseAlgorithm = 'ES256' | 'EdDSA';

/** A key that signs manifests. What is known of it here is its public half. */
export type ReleaseKey = {
  /** The RFC 7638 thumbprint (SHA-256, base64url): `kid` of its manifests. */
  id: string;
  algorithm: ReleaseAlgorithm;
  /** SubjectPublicKeyInfo. */
  publicKeyPem: string;
};

/** A text that is not the key that is asked for. It never quotes the text. */
export class ReleaseKeyFault extends Error {
  override name = 'ReleaseKeyFault';
}

/** Reads a public key and nothing else: what has a private half is refused, so that none is ever kept here. */
export async function readReleaseKey(pem: string): Promise<ReleaseKey> {
  if (pem.includes('PRIVATE KEY')) {
    throw new ReleaseKeyFault('this is a private key, which nobody but its owner may have: make another');
  }
  if (!/^\s*-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----\s*$/.test(pem)) {
    throw new ReleaseKeyFault('it is not one public key in PEM (SubjectPublicKeyInfo)');
  }
  return describeKey(parse('a public key', () => createPublicKey(pem)));
}

/** The private half, for whoever signs; `passphrase` when it is kept encrypted. */
export function readPrivateKey(pem: string, passphrase?: string): KeyObject {
  const key = parse('a private key', () =>
    createPrivateKey({ key: pem, ...(passphrase !== undefined && { passphrase }) }),
  );
  algorithmOf(key);
  return key;
}

/** The public half of either half, as it is registered. */
export async function describeKey(key: KeyObject): Promise<ReleaseKey> {
  const publicKey = key.type === 'private' ? createPublicKey(key) : key;
  return {
    id: await calculateJwkThumbprint(publicKey.export({ format: 'jwk' })),
    algorithm: algorithmOf(publicKey),
    publicKeyPem: publicKey.export({ type: 'spki', format: 'pem' }),
  };
}

/** PKCS #8 in PEM, encrypted (PBES2, AES-256) when there is a passphrase. */
export function makeReleaseKey(algorithm: ReleaseAlgorithm, passphrase?: string): string {
  const { privateKey } =
    algorithm === 'ES256' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : generateKeyPairSync('ed25519');
  const encryption = passphrase === undefined ? {} : { cipher: 'aes-256-cbc', passphrase };
  return privateKey.export({ type: 'pkcs8', format: 'pem', ...encryption });
}

/** A key has one algorithm, whatever a header says. */
export function algorithmOf(key: KeyObject): ReleaseAlgorithm {
  if (key.asymmetricKeyType === 'ed25519') return 'EdDSA';
  if (key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === 'prime256v1') return 'ES256';
  throw new ReleaseKeyFault('a release key is on P-256 or Ed25519');
}

function parse(what: string, read: () => KeyObject): KeyObject {
  try {
    return read();
  } catch (error) {
    if (isPassphraseFault(error)) throw new ReleaseKeyFault('the key is encrypted, and this is not its passphrase');
    throw new ReleaseKeyFault(`it is not ${what} in PEM`);
  }
}

/** What node:crypto says of a passphrase that is missing or wrong. */
const isPassphraseFault = (error: unknown): boolean =>
  error instanceof Error &&
  'code' in error &&
  (error.code === 'ERR_MISSING_PASSPHRASE' || /BAD_DECRYPT|INTERRUPTED_OR_CANCELLED/.test(String(error.code)));
