// The library finds its parsers through metadata, which has to be there before it loads.
// oxlint-disable-next-line import/no-unassigned-import
import 'reflect-metadata';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  CRLDistributionPointsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Name,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { hash } from 'node:crypto';
import { isIP } from 'node:net';

import { decode, hex } from './der.ts';

type SigningKey = { privateKey: CryptoKey; spki: Uint8Array; name: string };

type AuthorityToCertify = {
  signer: SigningKey;
  subject: { spki: Uint8Array; name: string };
  serial: string;
  notBefore: Date;
  notAfter: Date;
  /** How many authorities may follow below this one. */
  pathLength: number;
};

/** The certificate of an authority, in DER, by itself or by the one above. */
export async function certifyAuthority({ signer, subject, ...certificate }: AuthorityToCertify): Promise<Uint8Array> {
  const issued = await X509CertificateGenerator.create({
    serialNumber: certificate.serial,
    subject: nameOf(subject.name),
    issuer: nameOf(signer.name),
    notBefore: certificate.notBefore,
    notAfter: certificate.notAfter,
    publicKey: subject.spki.slice(),
    signingKey: signer.privateKey,
    // Without its hash named, the library would sign with SHA-256 whatever the curve.
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-384' },
    extensions: [
      new BasicConstraintsExtension(true, certificate.pathLength, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      new SubjectKeyIdentifierExtension(hex(keyIdentifier(subject.spki))),
      new AuthorityKeyIdentifierExtension(hex(keyIdentifier(signer.spki))),
    ],
  });
  return new Uint8Array(issued.rawData);
}

/** What the certificate of an authority says about what it may. `others` are extensions that would limit it further. */
export function readAuthorityExtensions(der: Uint8Array) {
  const certificate = new X509Certificate(der.slice());
  const constraints = certificate.getExtension(BasicConstraintsExtension);
  const usages = certificate.getExtension(KeyUsagesExtension)?.usages ?? 0;
  const limiting = certificate.extensions.filter(({ type, critical }) => {
    return !understood.has(type) && (critical || limits.has(type));
  });
  return {
    isCritical: constraints?.critical === true,
    pathLength: constraints?.pathLength,
    usages: {
      keyCertSign: (usages & KeyUsageFlags.keyCertSign) !== 0,
      cRLSign: (usages & KeyUsageFlags.cRLSign) !== 0,
    },
    hasKeyIdentifier: certificate.getExtension(SubjectKeyIdentifierExtension) !== null,
    others: limiting.map(({ type }) => type),
  };
}

/** Basic constraints and key usage, which are read above. */
const understood = new Set(['2.5.29.19', '2.5.29.15']);
/** Extended key usage, name constraints, policy constraints: they bind also where they are not critical. */
const limits = new Set(['2.5.29.37', '2.5.29.30', '2.5.29.36']);

/** What every leaf for one purpose carries, whoever it names: no authority, signs for itself only, one purpose. */
export const leafExtensions = (purpose: 'clientAuth' | 'serverAuth'): Uint8Array =>
  encoded(
    new BasicConstraintsExtension(false, undefined, true),
    new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
    new ExtendedKeyUsageExtension([ExtendedKeyUsage[purpose]]),
  );

/** What every certificate of one issuer carries: by which key it was signed, and where the revoked ones are listed. */
export function issuerExtensions(issuerCertificate: Uint8Array, crlUrl: string | undefined): Uint8Array {
  const identifier = new X509Certificate(issuerCertificate.slice()).getExtension(SubjectKeyIdentifierExtension);
  if (!identifier) throw new Error('The certificate of an authority carries no key identifier');
  const points = crlUrl ? [new CRLDistributionPointsExtension([crlUrl])] : [];
  return encoded(new AuthorityKeyIdentifierExtension(identifier.keyId), ...points);
}

/** The DNS names and IP addresses of a server as its subject alternative names. */
export const hostExtension = (hosts: string[]): Uint8Array =>
  encoded(
    new SubjectAlternativeNameExtension(
      hosts.map((value) => ({ type: isIP(value) ? ('ip' as const) : ('dns' as const), value })),
    ),
  );

/** RFC 7093 2, method 1: the first 160 bits of the SHA-256 of the key itself, without its algorithm. */
export function keyIdentifier(spki: Uint8Array): Uint8Array {
  const key = decode(spki).children[1];
  if (!key) throw new RangeError('A public key is not a SubjectPublicKeyInfo');
  return hash('sha256', key.contents.subarray(1), 'buffer').subarray(0, 20);
}

/** In the library's object form, which is taken as it stands: its string form reads `a,O=b` as two names. */
const nameOf = (commonName: string) => new Name([{ CN: [{ utf8String: commonName }] }]);

const encoded = (...extensions: Extension[]): Uint8Array =>
  Buffer.concat(extensions.map((extension) => new Uint8Array(extension.rawData)));
