import { encodeCertificateBag } from '../pki/certificate-bags.ts';

const mediaType = /^application\/pkcs10\s*(;|$)/i;

/** Whether a body says that it is a request (RFC 7030 4.2.1); its parameters say nothing. */
export const isRequestType = (contentType: string | undefined): boolean => mediaType.test(contentType?.trim() ?? '');

/**
 * The DER of a request in base64, with line breaks or without, with its padding or without (RFC 8951 3.1). Undefined when the
 * text is anything else; PEM is, too.
 */
export function readRequest(body: Uint8Array): Uint8Array | undefined {
  const text = Buffer.from(body.buffer, body.byteOffset, body.byteLength)
    .toString('latin1')
    .replaceAll(/[\r\n\t ]/g, '');
  const bare = text.replace(/={1,2}$/, '');
  if (bare.length === 0 || !/^[A-Za-z0-9+/]+$/.test(bare)) return undefined;
  const der = Buffer.from(bare, 'base64');
  // Bits that stand for nothing are zero, so that one request has one text.
  return der.toString('base64').replace(/=+$/, '') === bare ? der : undefined;
}

/** Certificates on one line of base64: clients take wrapped lines for the end. */
export const writeCertificates = (certificatesPem: string): string =>
  encodeCertificateBag(splitPem(certificatesPem)).toString('base64');

function splitPem(pem: string): Uint8Array[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => Buffer.from(block.replaceAll(/-----[A-Z ]+-----|\s/g, ''), 'base64'));
}

/** The first certificate of a chain. */
export const leafOf = (chainPem: string): string =>
  chainPem.slice(0, chainPem.indexOf('-----END CERTIFICATE-----') + '-----END CERTIFICATE-----'.length);
