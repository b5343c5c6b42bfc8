import { decode, DerFault, tags, type Element } from './der.ts';
import { CsrFault } from './refusals.ts';

/** The parts of a CertificationRequest (RFC 2986 4), each still in the bytes that came. */
export type Csr = {
  signedPart: Uint8Array;
  subject: Element;
  publicKey: Uint8Array;
  /** Empty also where the field is missing, which OpenSSL lets pass. */
  attributes: Element[];
  /** AlgorithmIdentifier, which is not part of what is signed. */
  signatureAlgorithm: Uint8Array;
  signature: Uint8Array;
};

const derBytesMax = 16 * 1024;
/** The largest request in base64, with its lines as short or as long as anybody writes them. */
const pemCharactersMax = 32 * 1024;

/** No two neighbouring parts match the same character, so that hostile text cannot make the matching slow. */
const block = /^\s*-----BEGIN ((?:NEW )?CERTIFICATE REQUEST)-----([A-Za-z0-9+/=\s]*)-----END \1-----\s*$/;

/** The bytes of the one PEM block (RFC 7468 7) that `pem` consists of. */
export function unwrapPem(pem: string): Uint8Array {
  if (pem.length > pemCharactersMax) throw tooLarge();
  if (pem.split('-----BEGIN ').length > 2)
    throw new CsrFault('several-pem-blocks', 'Exactly one PEM block is taken; there are more.');
  const base64 = block.exec(pem)?.[2]?.replaceAll(/\s/g, '');
  if (base64 === undefined)
    throw new CsrFault('not-pem', 'The request must be one PEM block, CERTIFICATE REQUEST, with nothing around it.');
  const der = Buffer.from(base64, 'base64');
  if (der.toString('base64') !== base64) throw new CsrFault('not-pem', 'The PEM block must hold whole, padded base64.');
  return der;
}

export function readCsr(der: Uint8Array): Csr {
  if (der.length > derBytesMax) throw tooLarge();
  const request = decodeRequest(der);
  if (request.tag !== tags.sequence) throw notARequest();
  const [info, signatureAlgorithm, signature, ...rest] = request.children;
  if (info?.tag !== tags.sequence || signatureAlgorithm?.tag !== tags.sequence || signature?.tag !== tags.bitString)
    throw notARequest();
  const [version, subject, publicKey, attributes, ...more] = info.children;
  if (version?.tag !== tags.integer || version.contents.length !== 1 || version.contents[0] !== 0) throw notARequest();
  if (subject?.tag !== tags.sequence || publicKey?.tag !== tags.sequence) throw notARequest();
  if (attributes && attributes.tag !== tags.context0) throw notARequest();
  if (rest.length > 0 || more.length > 0 || signature.contents[0] !== 0) throw notARequest();
  return {
    signedPart: info.bytes,
    subject,
    publicKey: publicKey.bytes,
    attributes: attributes?.children ?? [],
    signatureAlgorithm: signatureAlgorithm.bytes,
    signature: signature.contents.subarray(1),
  };
}

function decodeRequest(der: Uint8Array): Element {
  try {
    return decode(der);
  } catch (fault) {
    if (fault instanceof DerFault) throw new CsrFault('not-der', `The request is not strict DER: ${fault.message}.`);
    throw fault;
  }
}

const tooLarge = () => new CsrFault('too-large', 'A request may have 16 KiB of DER at most.');

const notARequest = () => new CsrFault('not-a-request', 'The bytes are not a version 1 certification request.');
