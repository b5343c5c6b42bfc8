import { encode, objectIdentifier, sequence, tags } from './der.ts';
import { oids } from './object-identifiers.ts';

const version1 = encode(tags.integer, Buffer.of(1));
const none = encode(tags.set);

/**
 * Certificates and nothing else, in the form that enrolment protocols hand them over in: a SignedData that nobody signed
 * (RFC 2315 9, "certs-only"). As a set has no order, the encodings are sorted (X.690 11.6).
 */
export function encodeCertificateBag(certificates: Uint8Array[]): Buffer {
  const sorted = certificates.toSorted(Buffer.compare);
  const content = sequence(objectIdentifier(oids.data));
  const signedData = sequence(version1, none, content, encode(tags.context0, ...sorted), none);
  return sequence(objectIdentifier(oids.signedData), encode(tags.context0, signedData));
}
