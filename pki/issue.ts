import { hash, randomBytes } from 'node:crypto';

import { hex } from './der.ts';
import { encodeLeaf } from './leaf.ts';
import { namesOf, type NamedProfile, type Profile } from './names.ts';
import { encodePem } from './pem.ts';
import { keyAlgorithmOf } from './public-keys.ts';
import { signed } from './signed.ts';
import type { Signer } from './signers.ts';

/** What is signed is a profile, a name and a key: nobody hands an authority bytes to sign. */
export type IssueRequest = NamedProfile & {
  certificateId: string;
  /** SubjectPublicKeyInfo in DER, of a request that `judgeCsr` accepted. */
  publicKey: Uint8Array;
  lifetimeMs: number;
  now?: Date;
};

export type IssuedCertificate = {
  certificateId: string;
  der: Uint8Array;
  pem: string;
  /** The leaf, then the issuing authority, never the root; each block ends in a newline. */
  chainPem: string;
  /** 32 hexadecimal digits. */
  serial: string;
  spkiSha256: Uint8Array;
  /** SHA-256 of the DER: how a gateway finds the row. */
  fingerprint: Uint8Array;
  subject: string;
  notBefore: Date;
  notAfter: Date;
  authorityId: string;
};

/** An opened issuing authority, with all that its certificates have in common already encoded. */
export type Issuer = {
  id: string;
  certificatePem: string;
  signer: Signer;
  name: Uint8Array;
  notAfter: Date;
  fixedExtensions: Record<Profile, Uint8Array>;
  limits: IssueLimits;
};

export type IssueLimits = {
  /** How far a certificate starts in the past, for devices whose clock is slow. */
  backdateMs: number;
  /** How long before its issuer a certificate ends at the latest. */
  marginMs: number;
  /** The life that an issuer must still have to give, by profile. */
  minimumMs: Record<Profile, number>;
};

/** The issuer ends too soon to be worth issuing from: time for the next one. */
export class AuthorityEnding extends Error {
  override name = 'AuthorityEnding';
}

/** Throws `AuthorityEnding`, a `SignerFault`, or a fault of a request that was not judged before. */
export async function issueLeaf(issuer: Issuer, request: IssueRequest): Promise<IssuedCertificate> {
  const { certificateId, publicKey } = request;
  keyAlgorithmOf(publicKey);
  if ('certificate' in request.subject && request.subject.certificate !== certificateId)
    throw new RangeError('A certificate that names itself must name itself');

  const names = namesOf(request);
  const { notBefore, notAfter } = validityOf(issuer, request);
  const serial = makeSerial();
  const fixedExtensions = issuer.fixedExtensions[request.profile];
  const leaf = { serial, issuer: issuer.name, notBefore, notAfter, names, publicKey, fixedExtensions };
  const der = await signed(encodeLeaf(leaf), issuer.signer);
  const pem = encodePem('CERTIFICATE', der);
  return {
    certificateId,
    der,
    pem,
    chainPem: pem + issuer.certificatePem,
    serial: hex(serial),
    spkiSha256: hash('sha256', publicKey, 'buffer'),
    fingerprint: hash('sha256', der, 'buffer'),
    subject: `CN=${names.commonName}`,
    notBefore,
    notAfter,
    authorityId: issuer.id,
  };
}

/** Positive and always 16 bytes long (RFC 5280 4.1.2.2): the first two bits are fixed, 126 are random. */
export function makeSerial(): Uint8Array {
  const serial = randomBytes(16);
  serial.writeUInt8((serial.readUInt8(0) & 0x3f) | 0x40, 0);
  return serial;
}

/** Certificates know whole seconds only. */
export const wholeSeconds = (time: number): Date => new Date(Math.floor(time / 1000) * 1000);

function validityOf({ notAfter: end, limits }: Issuer, { profile, lifetimeMs, now = new Date() }: IssueRequest) {
  if (!(lifetimeMs >= 1000)) throw new RangeError('A certificate lives for a second at least');
  const last = end.getTime() - limits.marginMs;
  if (last - now.getTime() < limits.minimumMs[profile])
    throw new AuthorityEnding(
      `The issuing authority ends on ${end.toISOString()}: too soon for a ${profile} certificate`,
    );
  return {
    notBefore: wholeSeconds(now.getTime() - limits.backdateMs),
    notAfter: wholeSeconds(Math.min(now.getTime() + lifetimeMs, last)),
  };
}
