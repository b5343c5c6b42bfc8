import { createPrivateKey, verify, X509Certificate } from 'node:crypto';

import { bitString, encode, encodeTime, objectIdentifier, sequence, tags } from './der.ts';
import { subjectOf } from './names.ts';
import { oids } from './object-identifiers.ts';
import { keyAlgorithmOf } from './public-keys.ts';
import { localSigner, type Signer } from './signers.ts';
import { issuerExtensions } from './x509.ts';

/** RFC 5280 5.3.1. `unspecified` is not among them, because a list leaves it out; a hold is a block of the device. */
export const revocationReasons = {
  keyCompromise: 1,
  cACompromise: 2,
  affiliationChanged: 3,
  superseded: 4,
  cessationOfOperation: 5,
  privilegeWithdrawn: 9,
} as const;
export type RevocationReason = keyof typeof revocationReasons;

export type RevokedEntry = {
  /** Hexadecimal digits of a positive number. */
  serial: string;
  revokedAt: Date;
  reason: RevocationReason;
};

export type ListRequest = { number: number; thisUpdate: Date; nextUpdate: Date; entries: RevokedEntry[] };

/** Whoever signs the list of one authority. */
export interface ListSigner {
  readonly id: string;
  /** A whole list (RFC 5280 5) in DER, which has been read back and verified. */
  crl(request: ListRequest): Promise<Uint8Array>;
}

type OpenListSigner = {
  id: string;
  certificatePem: string;
  signer: Signer;
  /** Whether it certifies authorities or everybody else: its list says so, and never holds the others. */
  certifies: 'authorities' | 'leaves';
};

/** Opens the signer of lists of an authority. A key that is not the certificate's is refused. */
export function openListSigner({ id, certificatePem, signer, certifies }: OpenListSigner): ListSigner {
  const certificate = new X509Certificate(certificatePem);
  const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
  if (!spki.equals(signer.spki)) throw new Error('The key is not the key of the certificate');
  const { digest, algorithm } = keyAlgorithmOf(spki) === 'P-384' ? sha384 : sha256;
  const issuer = subjectOf(certificate.raw);
  const keyIdentifier = issuerExtensions(certificate.raw, undefined);
  return {
    id,
    async crl({ number, thisUpdate, nextUpdate, entries }) {
      const times = [encodeTime(thisUpdate), encodeTime(nextUpdate)];
      const extensions = sequence(keyIdentifier, numberExtension(number), scopes[certifies]);
      const revoked = entries.length > 0 ? [sequence(encodeEntries(entries))] : [];
      const list = sequence(version2, algorithm, issuer, ...times, ...revoked, encode(tags.context0, extensions));
      const signature = await signer.sign(list, digest);
      if (!verify(digest, list, certificate.publicKey, signature)) throw new Error('The list does not verify');
      return sequence(list, algorithm, bitString(signature));
    },
  };
}

/** The signer of the root's list, out of the file that its key was put into at the first start. */
export const openRootListSigner = ({
  privateKeyPem,
  ...root
}: {
  id: string;
  certificatePem: string;
  privateKeyPem: string;
}): ListSigner =>
  openListSigner({ ...root, signer: localSigner(createPrivateKey(privateKeyPem)), certifies: 'authorities' });

const sha256 = { digest: 'sha256' as const, algorithm: sequence(objectIdentifier(oids.ecdsaWithSha256)) };
const sha384 = { digest: 'sha384' as const, algorithm: sequence(objectIdentifier(oids.ecdsaWithSha384)) };
const version2 = encode(tags.integer, Buffer.of(1));

/**
 * IssuingDistributionPoint (5.2.5), critical: the scope of the list, and no address. With one, a list is good only for
 * certificates that name the very same address, and a server that moves would make all older ones unverifiable.
 */
const scopes = { leaves: scopeExtension(0x81), authorities: scopeExtension(0x82) };

function scopeExtension(flag: 0x81 | 0x82): Buffer {
  const critical = encode(tags.boolean, Buffer.of(0xff));
  const scope = encode(tags.octetString, sequence(encode(flag, Buffer.of(0xff))));
  return sequence(objectIdentifier(oids.issuingDistributionPoint), critical, scope);
}

/** 5.2.3: it never falls, so that a verifier knows the later of two lists. */
function numberExtension(number: number): Buffer {
  const digits = integerDigits(number.toString(16));
  const value = encode(tags.integer, Buffer.from(digits, 'hex'));
  return sequence(objectIdentifier(oids.crlNumber), encode(tags.octetString, value));
}

/**
 * The entries one after the other. Written as text of hexadecimal digits and turned into bytes at once: a buffer for
 * every value of a hundred thousand entries would take ten times as long.
 */
function encodeEntries(entries: RevokedEntry[]): Buffer {
  const texts = entries.map(({ serial, revokedAt, reason }) => {
    const digits = integerDigits(serial);
    const time = timeDigits(revokedAt);
    const body = `02${octet(digits.length / 2)}${digits}${time}${reasonDigits[reason]}`;
    return `30${octet(body.length / 2)}${body}`;
  });
  return Buffer.from(texts.join(''), 'hex');
}

/** Of entries: SEQUENCE OF one extension, reasonCode (5.3.1), its value an ENUMERATED. */
const reasonDigits = Object.fromEntries(
  Object.entries(revocationReasons).map(([reason, code]) => {
    const value = encode(tags.octetString, encode(tags.enumerated, Buffer.of(code)));
    return [reason, sequence(sequence(objectIdentifier(oids.reasonCode), value)).toString('hex')];
  }),
);

/** `encodeTime` in hexadecimal digits, for a time of every entry. */
function timeDigits(time: Date): string {
  const year = time.getUTCFullYear();
  const days = pair(time.getUTCMonth() + 1) + pair(time.getUTCDate());
  const rest = days + pair(time.getUTCHours()) + pair(time.getUTCMinutes()) + pair(time.getUTCSeconds()) + utc;
  return year < 2050
    ? `170d${pair(year % 100)}${rest}`
    : `180f${pair(Math.floor(year / 100))}${pair(year % 100)}${rest}`;
}

/** Two decimal digits in ASCII, each octet as hexadecimal digits. */
const pairs = Array.from({ length: 100 }, (_, n) => Buffer.from(String(n).padStart(2, '0')).toString('hex'));
const pair = (number: number): string => pairs[number] ?? '';
const utc = Buffer.from('Z').toString('hex');

/** One octet of a length: an entry is always shorter than 128 (RFC 5280 4.1.2.2 ends serial numbers at 20 octets). */
function octet(length: number): string {
  if (length > 0x7f) throw new RangeError('An entry of a revocation list is too long');
  return length.toString(16).padStart(2, '0');
}

/** X.690 8.3.2: whole octets, as few as they can be, the first bit clear because the number is positive. */
function integerDigits(hex: string): string {
  const digits = hex.replace(/^0+(?=.)/, '');
  const padding = digits.length % 2 === 1 ? '0' : /^[89a-f]/i.test(digits) ? '00' : '';
  return padding + digits;
}
