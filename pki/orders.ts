import { sign, type KeyObject } from 'node:crypto';
import { algorithmOf, describeKey, readPrivateKey, ReleaseKeyFault } from './release-keys.ts';

/** What one device is to install now. */
export type Order = {
  /** The device's name. */
  device: string;
  job: string;
  /** Which attempt of the job it is. */
  execution: number;
  /** SHA-256 of the manifest's JWS, in lower-case hexadecimal digits. */
  manifest: string;
};

export type SignOrder = (order: Order) => string;

export type OrderSignerOptions = {
  /** On P-256: orders are ES256 and nothing else. */
  privateKey: KeyObject;
  lifetimeSeconds: number;
  now?: () => number;
};

const type = 'ota-order+jws';
const pemBlock = /-----BEGIN PRIVATE KEY-----[A-Za-z0-9+/=\s]+-----END PRIVATE KEY-----\s*/g;

/**
 * Signs orders: JWS in its compact form (RFC 7515) over what is ordered, from when and until when, in seconds since 1970.
 * It signs at once and waits for nothing, so that a document is made in one go: a signature on P-256 is less than a tenth
 * of a millisecond of work.
 */
export async function createOrderSigner({
  privateKey: key,
  lifetimeSeconds,
  now = Date.now,
}: OrderSignerOptions): Promise<SignOrder> {
  requireP256(key);
  const header = encode({ alg: 'ES256', typ: type, kid: (await describeKey(key)).id });
  return ({ device, job, execution, manifest }) => {
    const issuedAt = Math.floor(now() / 1_000);
    const said = { device, job, execution, manifest, issuedAt, expiresAt: issuedAt + lifetimeSeconds };
    const signed = `${header}.${encode(said)}`;
    return `${signed}.${sign('sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
  };
}

/** The private keys of a file, PKCS #8 in PEM one after the other: the first signs, the others are known to devices. */
export function readOrderKeys(pems: string): KeyObject[] {
  const blocks = pems.match(pemBlock) ?? [];
  if (blocks.length === 0 || pems.replaceAll(pemBlock, '').trim() !== '') {
    throw new ReleaseKeyFault('these are not private keys in PEM (PKCS #8), one after the other');
  }
  return blocks.map((pem) => requireP256(readPrivateKey(pem)));
}

function requireP256(key: KeyObject): KeyObject {
  if (algorithmOf(key) === 'ES256') return key;
  throw new ReleaseKeyFault('an order key is on P-256');
}

const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
