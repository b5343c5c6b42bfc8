import { hash, X509Certificate } from 'node:crypto';

import { DerFault } from './der.ts';
import { readCertificate } from './device-certificates.ts';
import { subjectOf } from './names.ts';
import { encodePem } from './pem.ts';
import { keyAlgorithmOf } from './public-keys.ts';
import { CsrFault } from './refusals.ts';
import { subjectOfCertificate } from './subjects.ts';

/** The root of a manufacturer, as it may be trusted with the certificates of devices. */
export type ManufacturerAuthority = {
  certificate: X509Certificate;
  certificatePem: string;
  subject: string;
  fingerprint: Uint8Array;
  spkiSha256: Uint8Array;
  notBefore: Date;
  notAfter: Date;
};

type Reading = {
  /** The certificates of the fleet's own authorities, PEM. */
  ours: string[];
  now?: Date;
};

/** Every handshake carries the subjects of all, and small clients have small buffers. */
const subjectBytesMax = 512;

/**
 * Reads the certificate of a manufacturer's authority: one PEM block. Says in a sentence, which never quotes the input, why it is
 * not taken: it is no root in its time, has a key that we would not certify, or could be mistaken for an authority of ours.
 */
export function readManufacturerAuthority(
  text: string,
  { ours, now = new Date() }: Reading,
): ManufacturerAuthority | { fault: string } {
  try {
    const read = readCertificate(text);
    if ('fault' in read) return read;
    const { der, certificate } = read;
    const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
    keyAlgorithmOf(spki);
    if (!certificate.ca) return { fault: "it is not an authority's" };
    if (!certificate.checkIssued(certificate) || !certificate.verify(certificate.publicKey))
      return { fault: 'it is no root: it must be signed by its own key, and may sign certificates' };
    if (certificate.validToDate <= now) return { fault: 'it has ended' };
    if (certificate.validFromDate > now) return { fault: 'its time has not begun' };
    const bytes = subjectOf(der).length;
    if (!certificate.subject || bytes > subjectBytesMax)
      return { fault: `its subject has 1 to ${subjectBytesMax} bytes` };
    const own = ours.map((pem) => new X509Certificate(pem));
    if (own.some((one) => isAlike(one, certificate)))
      return { fault: 'it is an authority of this fleet, or has the name of one' };
    return {
      certificate,
      certificatePem: encodePem('CERTIFICATE', der),
      subject: certificate.subject.replaceAll('\n', ', '),
      fingerprint: hash('sha256', der, 'buffer'),
      spkiSha256: hash('sha256', spki, 'buffer'),
      notBefore: certificate.validFromDate,
      notAfter: certificate.validToDate,
    };
  } catch (error) {
    const isJudged = error instanceof CsrFault || error instanceof DerFault;
    return { fault: isJudged ? error.message : 'it cannot be read' };
  }
}

/** The code that the authority's key has signed: the common name of a certificate of it. */
export function readProof(
  text: string,
  { certificate: authority }: Pick<ManufacturerAuthority, 'certificate'>,
  now = new Date(),
): { code: string } | { fault: string } {
  try {
    const read = readCertificate(text);
    if ('fault' in read) return read;
    const { der, certificate } = read;
    if (!certificate.checkIssued(authority) || !certificate.verify(authority.publicKey))
      return { fault: 'it is not signed by the key of the authority' };
    if (certificate.validToDate <= now || certificate.validFromDate > now) return { fault: 'it is not in its time' };
    const { commonName } = subjectOfCertificate(der);
    return commonName === undefined ? { fault: 'it has no common name, or several' } : { code: commonName };
  } catch (error) {
    return { fault: error instanceof DerFault ? error.message : 'it cannot be read' };
  }
}

/** OpenSSL looks for issuers by their names, in any spelling: one with the name of ours could stand in its way. */
function isAlike(one: X509Certificate, other: X509Certificate): boolean {
  const plain = ({ subject }: X509Certificate) => subject.toLowerCase().replaceAll(/\s+/g, ' ');
  return one.publicKey.equals(other.publicKey) || plain(one) === plain(other);
}
