import { hash, X509Certificate } from 'node:crypto';

import { decode, DerFault, hex } from './der.ts';
import { encodePem } from './pem.ts';
import { keyAlgorithmOf } from './public-keys.ts';
import { CsrFault } from './refusals.ts';

/** A certificate that a device has from elsewhere, and brings along. */
export type DeviceCertificate = {
  /** SHA-256 of the DER, in hex. */
  fingerprint: string;
  /** SubjectPublicKeyInfo in DER, and its SHA-256 in hex. */
  publicKey: Uint8Array;
  key: string;
  serial: string;
  pem: string;
  notBefore: Date;
  notAfter: Date;
  /** Whether this authority has signed it. */
  isFrom(authority: X509Certificate): boolean;
};

const derBytesMax = 16 * 1024;
const clientAuth = '1.3.6.1.5.5.7.3.2';
const pemBlock = /^\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*$/;
const base64 = /^[A-Za-z0-9+/\s]+={0,2}\s*$/;

/** One PEM block, or DER in base64. Throws for what is none in DER, and whatever node:crypto makes of it. */
export function readCertificate(text: string): { der: Buffer; certificate: X509Certificate } | { fault: string } {
  const encoded = pemBlock.exec(text)?.[1] ?? (base64.test(text) ? text : undefined);
  if (encoded === undefined) return { fault: 'it is neither one PEM block nor DER in base64' };
  const der = Buffer.from(encoded, 'base64');
  if (der.length > derBytesMax) return { fault: `it has ${derBytesMax} bytes at most` };
  decode(der);
  return { der, certificate: new X509Certificate(der) };
}

/**
 * Reads the certificate of a device: one PEM block, or DER in base64. Says in a sentence, which never quotes the input, why
 * it is none: it is not in DER, is an authority's, is not for clients, has ended, or has a key that we would not certify.
 */
export function readDeviceCertificate(text: string, now = new Date()): DeviceCertificate | { fault: string } {
  try {
    const read = readCertificate(text);
    if ('fault' in read) return read;
    const { der, certificate } = read;
    const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
    keyAlgorithmOf(spki);
    if (certificate.ca) return { fault: "it is an authority's" };
    // Node names this after the extended key usage: undefined where the certificate has none, and is for anything.
    const purposes: string[] | undefined = certificate.keyUsage;
    if (purposes && !purposes.includes(clientAuth)) return { fault: 'it is not for clients' };
    if (certificate.validToDate <= now) return { fault: 'it has ended' };
    return {
      fingerprint: hex(hash('sha256', der, 'buffer')),
      publicKey: spki,
      key: hex(hash('sha256', spki, 'buffer')),
      serial: certificate.serialNumber.toLowerCase(),
      pem: encodePem('CERTIFICATE', der),
      notBefore: certificate.validFromDate,
      notAfter: certificate.validToDate,
      isFrom: (authority) => certificate.checkIssued(authority) && certificate.verify(authority.publicKey),
    };
  } catch (error) {
    const isJudged = error instanceof CsrFault || error instanceof DerFault;
    return { fault: isJudged ? error.message : 'it cannot be read' };
  }
}
