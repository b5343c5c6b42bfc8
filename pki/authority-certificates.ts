import { hash, X509Certificate } from 'node:crypto';

import type { AuthorityCertificate } from './authority.ts';
import { decode, hex, objectIdentifier, sequence } from './der.ts';
import { subjectOf } from './names.ts';
import { oids } from './object-identifiers.ts';
import { encodePem } from './pem.ts';
import { keyAlgorithmOf } from './public-keys.ts';
import { readAuthorityExtensions } from './x509.ts';

/** The certificate is not that of an authority of ours; the message says which rule it breaks. */
export class AuthorityFault extends Error {
  override name = 'AuthorityFault';
}

type Read = Omit<AuthorityCertificate, 'serial'> & { x509: X509Certificate };

const derBytesMax = 16 * 1024;
const block = /^\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----\s*$/;
const dayMs = 86_400_000;
/** What is left of its life when an authority comes: less would be replaced before it is of use. */
const lifeMinMs = 180 * dayMs;
/** Clocks of whoever signs and of ours. */
const skewMs = 5 * 60_000;

/** A root that whoever holds its key brings: self-signed, on P-384, with room for an authority below it. */
export function readRoot(pem: string, now = new Date()): Read {
  const root = readAuthority(pem, now);
  const { x509 } = root;
  if (keyAlgorithmOf(spkiOf(x509)) !== 'P-384') throw new AuthorityFault('the key of a root is on P-384');
  if (!x509.checkIssued(x509) || !x509.verify(x509.publicKey)) throw new AuthorityFault('it has not signed itself');
  const { pathLength } = readAuthorityExtensions(root.der);
  if (pathLength === 0) throw new AuthorityFault('its path length leaves no room for an issuing authority');
  return root;
}

/** The certificate that a root has signed for the key of a request, with the root that it is under. */
export function readIssuing<Root extends { certificatePem: string }>(
  pem: string,
  { spkiSha256, roots }: { spkiSha256: Uint8Array; roots: Root[] },
  now = new Date(),
): { issuing: Read; root: Root } {
  const issuing = readAuthority(pem, now);
  const { x509 } = issuing;
  if (!issuing.spkiSha256.every((byte, at) => byte === spkiSha256[at]))
    throw new AuthorityFault('it is not for the key of the request');
  const root = roots.find(({ certificatePem }) => hasSigned(new X509Certificate(certificatePem), x509));
  if (!root) throw new AuthorityFault('it is signed by no root that is trusted here');
  const above = new X509Certificate(root.certificatePem);
  if (x509.validFromDate < above.validFromDate || x509.validToDate > above.validToDate)
    throw new AuthorityFault('its validity is not within that of its root');
  if (x509.subject === x509.issuer) throw new AuthorityFault('its name is that of its root');
  if (readAuthorityExtensions(issuing.der).pathLength !== 0)
    throw new AuthorityFault('its path length is not 0: it certifies devices alone');
  return { issuing, root };
}

/** What holds for every authority (RFC 5280 4.2.1), whoever made it. */
function readAuthority(pem: string, now: Date): Read {
  const der = unwrap(pem);
  const x509 = parse(der);
  if (!signatures.has(hex(decode(der).children[1]?.bytes ?? new Uint8Array())))
    throw new AuthorityFault('it is not signed by ECDSA with SHA-256, SHA-384 or SHA-512');
  const { usages, hasKeyIdentifier, isCritical, others } = readAuthorityExtensions(der);
  if (!x509.ca || !isCritical) throw new AuthorityFault('it is no authority by critical basic constraints');
  if (!usages.keyCertSign || !usages.cRLSign)
    throw new AuthorityFault('its key usage lacks the signing of certificates or of revocation lists');
  if (!hasKeyIdentifier) throw new AuthorityFault('it carries no subject key identifier');
  if (others.length > 0) throw new AuthorityFault(`it carries an extension that limits it: ${others.join(', ')}`);
  const { validFromDate: notBefore, validToDate: notAfter } = x509;
  if (notBefore.getTime() > now.getTime() + skewMs) throw new AuthorityFault('it is not valid yet');
  if (notAfter.getTime() < now.getTime() + lifeMinMs) throw new AuthorityFault('it ends within half a year');
  return {
    x509,
    der,
    certificatePem: encodePem('CERTIFICATE', der),
    subject: x509.subject.replaceAll('\n', ', '),
    spkiSha256: hash('sha256', spkiOf(x509), 'buffer'),
    fingerprint: hash('sha256', der, 'buffer'),
    notBefore,
    notAfter,
  };
}

const signatures = new Set(
  [oids.ecdsaWithSha256, oids.ecdsaWithSha384, oids.ecdsaWithSha512].map((oid) => hex(sequence(objectIdentifier(oid)))),
);

function unwrap(pem: string): Uint8Array {
  const base64 = block.exec(pem)?.[1]?.replaceAll(/\s/g, '');
  if (base64 === undefined) throw new AuthorityFault('it must be one PEM block, CERTIFICATE, with nothing around it');
  const der = Buffer.from(base64, 'base64');
  if (der.length > derBytesMax) throw new AuthorityFault(`it has more than ${derBytesMax} bytes`);
  if (der.toString('base64') !== base64) throw new AuthorityFault('the PEM block must hold whole, padded base64');
  return der;
}

/** Strict DER first: what two parsers could read differently is refused. */
function parse(der: Uint8Array): X509Certificate {
  try {
    const { children } = decode(der);
    const x509 = new X509Certificate(der);
    if (children.length === 3 && subjectOf(der).length > 2 && spkiOf(x509).length > 0) return x509;
  } catch {
    throw new AuthorityFault('it is no certificate in DER');
  }
  throw new AuthorityFault('it names nobody');
}

const spkiOf = (x509: X509Certificate): Buffer => x509.publicKey.export({ type: 'spki', format: 'der' });

const hasSigned = (above: X509Certificate, below: X509Certificate): boolean =>
  below.checkIssued(above) && below.verify(above.publicKey);
