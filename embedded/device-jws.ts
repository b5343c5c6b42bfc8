import { createHash, createPublicKey, verify, type KeyObject } from 'node:crypto';
import { JobRefused } from './device-refusal.ts';

type PublicKey = { key: KeyObject; algorithm: 'ES256' | 'EdDSA' };

/** By RFC 7638 thumbprint. The key says by which algorithm it signs, never what is signed. */
export type PublicKeys = ReadonlyMap<string, PublicKey>;

/** A kind of signed text: its `typ`, by what it is signed, and the codes by which one is refused. */
export type Signed = {
  typ: string;
  algorithms: PublicKey['algorithm'][];
  signer: string;
  malformed: string;
  unknownKey: string;
  wrongAlgorithm: string;
  badSignature: string;
};

/** Public keys in PEM: P-256 or Ed25519, others throw. */
export function readPublicKeys(pems: string[]): PublicKeys {
  return new Map(
    pems.map((pem) => {
      const key = createPublicKey(pem);
      const { kty, crv, x, y } = key.export({ format: 'jwk' });
      if (crv !== 'P-256' && crv !== 'Ed25519') throw new Error(`a key is P-256 or Ed25519, not ${crv ?? kty}`);
      const members = crv === 'P-256' ? { crv, kty, x, y } : { crv, kty, x };
      const thumbprint = createHash('sha256').update(JSON.stringify(members)).digest('base64url');
      return [thumbprint, { key, algorithm: crv === 'P-256' ? 'ES256' : 'EdDSA' }];
    }),
  );
}

/** What a JWS in its compact form (RFC 7515) says, once its signature has proved right. Throws `JobRefused`. */
export function openJws(jws: string, keys: PublicKeys, kind: Signed): Record<string, unknown> {
  const malformed = (why: string) => new JobRefused(kind.malformed, why);
  const parts = jws.split('.');
  const [header = '', payload = '', signature = ''] = parts;
  if (parts.length !== 3 || !parts.every((part) => /^[\w-]+$/.test(part))) throw malformed('not a compact JWS');
  const parsed = parseObject(header);
  if (!parsed) throw malformed('not JSON');
  const { alg, typ, kid, crit } = parsed;
  const known = typeof kid === 'string' ? keys.get(kid) : undefined;
  if (!known) throw new JobRefused(kind.unknownKey, `no ${kind.signer} key ${String(kid)} on this device`);
  if (alg !== known.algorithm)
    throw new JobRefused(kind.wrongAlgorithm, `this key signs with ${known.algorithm}, not ${String(alg)}`);
  if (!kind.algorithms.includes(known.algorithm))
    throw new JobRefused(kind.wrongAlgorithm, `${known.algorithm} is not for ${kind.typ}`);
  if (typ !== kind.typ) throw malformed(`typ is ${String(typ)}`);
  if (crit !== undefined) throw malformed('crit is not understood');
  if (!isSignedBy(known, Buffer.from(`${header}.${payload}`), Buffer.from(signature, 'base64url')))
    throw new JobRefused(kind.badSignature, `the signature is not that of the ${kind.signer} key`);
  const said = parseObject(payload);
  if (!said) throw malformed('not JSON');
  return said;
}

/** ES256 (RFC 7518 3.4): r and s side by side, not DER. EdDSA (RFC 8037): Ed25519 over the bytes themselves. */
function isSignedBy({ key, algorithm }: PublicKey, signed: Buffer, signature: Buffer): boolean {
  return algorithm === 'ES256'
    ? verify('sha256', signed, { key, dsaEncoding: 'ieee-p1363' }, signature)
    : verify(null, signed, key, signature);
}

function parseObject(part: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString());
    if (typeof value === 'object' && value !== null) return { ...value };
  } catch {
    // said by whoever asked
  }
  return undefined;
}
