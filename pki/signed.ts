import { sign, type KeyObject } from 'node:crypto';

import { bitString, objectIdentifier, sequence } from './der.ts';
import { oids } from './object-identifiers.ts';

/** AlgorithmIdentifier of the one way we sign: ECDSA with SHA-256, without parameters (RFC 5758 3.2). */
export const ecdsaWithSha256 = sequence(objectIdentifier(oids.ecdsaWithSha256));

/** X.509's SIGNED: what is signed, how, and the signature of a P-256 key. */
export const signed = (part: Uint8Array, privateKey: KeyObject): Buffer =>
  sequence(part, ecdsaWithSha256, bitString(sign('sha256', part, privateKey)));
