import { createPublicKey, type KeyObject } from 'node:crypto';

import { decode, hex, tags, type Element } from './der.ts';
import { oids } from './object-identifiers.ts';
import { CsrFault } from './refusals.ts';

export type KeyAlgorithm = 'P-256' | 'P-384' | `RSA-${number}`;

/** The AlgorithmIdentifier of each curve we take, whole, and the length of an uncompressed point (RFC 5480 2.1.1). */
const curves = new Map<string, { algorithm: KeyAlgorithm; pointBytes: number }>([
  ['301306072a8648ce3d020106082a8648ce3d030107', { algorithm: 'P-256', pointBytes: 65 }],
  ['301006072a8648ce3d020106052b81040022', { algorithm: 'P-384', pointBytes: 97 }],
]);

const rsaBitsMin = 2048;
const rsaBitsMax = 4096;
const rsaExponentMin = 65_537n;
/** OpenSSL's own ceiling for long keys: a larger exponent serves only to make us work. */
const rsaExponentMax = 2n ** 64n - 1n;

/**
 * Names the algorithm of a SubjectPublicKeyInfo (RFC 5280 4.1.2.7), or throws a CsrFault or DerFault. A key passes in
 * one encoding only, so that its hash is its identity: curves by name, points uncompressed, RSA with null parameters.
 * Whether a point lies on its curve is left to node:crypto, where the key is used.
 */
export function keyAlgorithmOf(spki: Uint8Array): KeyAlgorithm {
  const { tag, children } = decode(spki);
  const [identifier, key, ...rest] = children;
  if (tag !== tags.sequence || identifier?.tag !== tags.sequence || key?.tag !== tags.bitString || rest.length > 0)
    throw new CsrFault('malformed-key', 'The public key is not a SubjectPublicKeyInfo.');
  const [algorithm, parameters] = identifier.children;
  const family = algorithm && hex(algorithm.contents);
  if (family === oids.rsaEncryption) return rsaAlgorithmOf(spki);
  if (family !== oids.ecPublicKey)
    throw new CsrFault('unsupported-key', 'The key must be P-256, P-384 or RSA of 2048 to 4096 bits.');

  const curve = curves.get(hex(identifier.bytes));
  if (!curve) throw curveFault(parameters);
  if (key.contents.length !== curve.pointBytes + 1 || key.contents[0] !== 0 || key.contents[1] !== 0x04)
    throw new CsrFault('compressed-point', 'The point of an elliptic curve key must be whole and uncompressed.');
  return curve.algorithm;
}

function importPublicKey(spki: Uint8Array): KeyObject {
  try {
    return createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  } catch {
    throw new CsrFault('malformed-key', 'The public key is not a key of its kind.');
  }
}

function curveFault(parameters: Element | undefined): CsrFault {
  if (parameters?.tag === tags.sequence)
    return new CsrFault('explicit-parameters', 'An elliptic curve must be given by its name, not by its parameters.');
  return new CsrFault('unsupported-curve', 'An elliptic curve key must be on P-256 or P-384.');
}

function rsaAlgorithmOf(spki: Uint8Array): KeyAlgorithm {
  const key = importPublicKey(spki);
  if (!key.export({ format: 'der', type: 'spki' }).equals(spki))
    throw new CsrFault('malformed-key', 'An RSA key must be in its one DER form.');
  const { modulusLength = 0, publicExponent = 0n } = key.asymmetricKeyDetails ?? {};
  if (modulusLength < rsaBitsMin || modulusLength > rsaBitsMax) {
    const reason = modulusLength < rsaBitsMin ? 'weak-key' : 'oversized-key';
    throw new CsrFault(reason, `An RSA key must have 2048 to 4096 bits; this one has ${modulusLength}.`);
  }
  if (publicExponent < rsaExponentMin || publicExponent > rsaExponentMax)
    throw new CsrFault('weak-exponent', 'The exponent of an RSA key must be at least 65537 and below 2 to the 64th.');
  return `RSA-${modulusLength}`;
}
