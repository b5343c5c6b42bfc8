import { encode, objectIdentifier, sequence, tags } from './der.ts';
import { oids } from './object-identifiers.ts';

/** The kinds of key that a request may be told to have. */
type KeyKind = 'P-256' | 'P-384' | 'RSA';

const attribute = (id: string, value: Uint8Array) => sequence(objectIdentifier(id), encode(tags.set, value));
const curve = (id: string) => attribute(oids.ecPublicKey, objectIdentifier(id));
const rsaBits = encode(tags.integer, Buffer.of(0x08, 0x00));

const wishes: Record<KeyKind, Buffer> = {
  'P-256': sequence(curve(oids.prime256v1), objectIdentifier(oids.ecdsaWithSha256)),
  'P-384': sequence(curve(oids.secp384r1), objectIdentifier(oids.ecdsaWithSha384)),
  RSA: sequence(attribute(oids.rsaEncryption, rsaBits), objectIdentifier(oids.sha256WithRsa)),
};

/** What a device is to put into its request (RFC 7030 4.5.2): the key that we like best of those that it may have. */
export const encodeCsrAttributes = ([kind = 'P-256']: KeyKind[]): Buffer => wishes[kind];
