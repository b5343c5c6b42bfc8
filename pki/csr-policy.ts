import { hash, verify } from 'node:crypto';

import { checkContents } from './csr-contents.ts';
import { readCsr, unwrapPem, type Csr } from './csr.ts';
import { encode, hex, objectIdentifier, sequence, tags } from './der.ts';
import { oids } from './object-identifiers.ts';
import { keyAlgorithmOf, type KeyAlgorithm } from './public-keys.ts';
import { CsrFault, type CsrRefusal } from './refusals.ts';
import { readSubject, type SubjectFields } from './subjects.ts';

export type { CsrRefusal };

/**
 * All that is ever certified of a request: a key whose possession is proven, as SubjectPublicKeyInfo in DER. What it says
 * of its subject is the requester's word and no more.
 */
export type AcceptedCsr = {
  publicKey: Uint8Array;
  spkiSha256: Uint8Array;
  keyAlgorithm: KeyAlgorithm;
  /** `names` is every common and alternative name in it that is not empty. */
  requested: { subject: SubjectFields; names: string[] };
};

export type CsrExpectations = {
  /** What a common or alternative name must equal where one is given. Names are not looked at when this is absent. */
  expectedNames?: string[] | undefined;
  /** SHA-256 of the keys that no device may have: our own authorities'. */
  forbiddenSpki?: Uint8Array[] | undefined;
};

/**
 * Judges a certification request (RFC 2986), given as one PEM block or as DER. Whatever comes in, the answer is a value:
 * nothing is thrown, and no detail quotes the request.
 */
export async function judgeCsr(
  input: string | Uint8Array,
  { expectedNames, forbiddenSpki = [] }: CsrExpectations = {},
): Promise<{ accepted: AcceptedCsr } | { refused: CsrRefusal }> {
  try {
    const csr = readCsr(typeof input === 'string' ? unwrapPem(input) : input);
    const keyAlgorithm = keyAlgorithmOf(csr.publicKey);
    checkPossession(csr, keyAlgorithm);
    const spkiSha256 = hash('sha256', csr.publicKey, 'buffer');
    if (forbiddenSpki.some((forbidden) => spkiSha256.equals(forbidden)))
      throw new CsrFault('forbidden-key', 'The key belongs to an authority.');
    const names = checkContents(csr, expectedNames);
    const requested = { subject: readSubject(csr.subject), names };
    return { accepted: { publicKey: Uint8Array.from(csr.publicKey), spkiSha256, keyAlgorithm, requested } };
  } catch (fault) {
    if (fault instanceof CsrFault) return { refused: { reason: fault.reason, detail: fault.message } };
    return { refused: { reason: 'unreadable', detail: 'The request could not be read.' } };
  }
}

type SignatureAlgorithm = { family: 'EC' | 'RSA'; digest: 'sha256' | 'sha384' | 'sha512' };

/** By the whole AlgorithmIdentifier: without parameters for ECDSA (RFC 5758 3.2), null or none for RSA (RFC 4055 5). */
const signatureAlgorithms = new Map<string, SignatureAlgorithm>([
  ...identifiers(oids.ecdsaWithSha256, { family: 'EC', digest: 'sha256' }),
  ...identifiers(oids.ecdsaWithSha384, { family: 'EC', digest: 'sha384' }),
  ...identifiers(oids.ecdsaWithSha512, { family: 'EC', digest: 'sha512' }),
  ...identifiers(oids.sha256WithRsa, { family: 'RSA', digest: 'sha256' }),
  ...identifiers(oids.sha384WithRsa, { family: 'RSA', digest: 'sha384' }),
  ...identifiers(oids.sha512WithRsa, { family: 'RSA', digest: 'sha512' }),
]);

function identifiers(id: string, algorithm: SignatureAlgorithm): [string, SignatureAlgorithm][] {
  const forms = [sequence(objectIdentifier(id))];
  if (algorithm.family === 'RSA') forms.push(sequence(objectIdentifier(id), encode(tags.null)));
  return forms.map((form) => [hex(form), algorithm]);
}

/** RFC 2986 3: the requester signed the request with the key that it asks a certificate for. */
function checkPossession(csr: Csr, keyAlgorithm: KeyAlgorithm): void {
  const algorithm = signatureAlgorithms.get(hex(csr.signatureAlgorithm));
  if (algorithm?.family !== (keyAlgorithm.startsWith('RSA') ? 'RSA' : 'EC'))
    throw new CsrFault(
      'unsupported-signature',
      'A request must be signed with SHA-256, SHA-384 or SHA-512, by ECDSA or RSA (PKCS #1 1.5) as its key is.',
    );
  if (!verifies(algorithm.digest, csr))
    throw new CsrFault('wrong-signature', 'The request is not signed by the key that it carries.');
}

/** A signature in any form is just wrong; what node:crypto throws for is a key, such as a point beside its curve. */
function verifies(digest: string, { signedPart, publicKey, signature }: Csr): boolean {
  try {
    return verify(digest, signedPart, { key: Buffer.from(publicKey), format: 'der', type: 'spki' }, signature);
  } catch {
    throw new CsrFault('malformed-key', 'The public key is not a key of its kind.');
  }
}
