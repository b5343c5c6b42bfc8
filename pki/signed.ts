import { bitString, objectIdentifier, sequence } from './der.ts';
import { oids } from './object-identifiers.ts';
import type { Signer } from './signers.ts';

/** AlgorithmIdentifier of the one way we sign: ECDSA with SHA-256, without parameters (RFC 5758 3.2). */
export const ecdsaWithSha256 = sequence(objectIdentifier(oids.ecdsaWithSha256));

/** X.509's SIGNED: what is signed, how, and the signature of a P-256 key. */
export const signed = async (part: Uint8Array, signer: Signer): Promise<Buffer> =>
  sequence(part, ecdsaWithSha256, bitString(await signer.sign(part, 'sha256')));
