/** One DER value (X.690). `bytes` is the whole of it, header included; `children` is empty when it is primitive. */
export type Element = { tag: number; bytes: Uint8Array; contents: Uint8Array; children: Element[] };

export const tags = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  objectIdentifier: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  printableString: 0x13,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
  /** [6] in a GeneralName: a URI. */
  uriName: 0x86,
  /** [0] constructed: the version of a certificate, the attributes of a request. */
  context0: 0xa0,
  /** [3] constructed: the extensions of a certificate. */
  context3: 0xa3,
} as const;

/** The bytes are not what the distinguished rules allow. The message names the rule and never quotes the bytes. */
export class DerFault extends Error {
  override name = 'DerFault';
}

const depthMax = 16;

/**
 * Reads exactly one value that fills `bytes`, and everything nested in it, by the distinguished rules alone: definite
 * and shortest lengths, low tag numbers, strings in one piece, no byte left over.
 */
export function decode(bytes: Uint8Array): Element {
  const element = decodeAt(bytes, 0, 0);
  if (element.bytes.length !== bytes.length) throw new DerFault('bytes follow the end of the value');
  return element;
}

/** Writes one value out of parts that are already encoded. */
export function encode(tag: number, ...parts: Uint8Array[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([header(tag, length), ...parts]);
}

export const sequence = (...parts: Uint8Array[]): Buffer => encode(tags.sequence, ...parts);

export const bitString = (bytes: Uint8Array): Buffer => encode(tags.bitString, Buffer.of(0), bytes);

/** `hex` is the encoded identifier without its header, the way object-identifiers.ts keeps them. */
export const objectIdentifier = (hex: string): Buffer => encode(tags.objectIdentifier, Buffer.from(hex, 'hex'));

/** RFC 5280 4.1.2.5: two digits for the year until 2049, four from 2050 on; whole seconds, universal time. */
export function encodeTime(time: Date): Buffer {
  const digits = time.toISOString().replaceAll(/[-:T]|\.\d+/g, '');
  return time.getUTCFullYear() < 2050
    ? encode(tags.utcTime, Buffer.from(digits.slice(2)))
    : encode(tags.generalizedTime, Buffer.from(digits));
}

export const hex = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');

function decodeAt(bytes: Uint8Array, start: number, depth: number): Element {
  if (depth > depthMax) throw new DerFault(`values are nested more than ${depthMax} deep`);
  const tag = bytes[start];
  if (tag === undefined) throw new DerFault('a value is cut short');
  const { contentsStart, end } = boundsOf(bytes, start);
  const contents = bytes.subarray(contentsStart, end);
  checkForm(tag, contents);
  const children: Element[] = [];
  if (tag & 0x20) {
    for (let position = 0; position < contents.length;) {
      const child = decodeAt(contents, position, depth + 1);
      children.push(child);
      position += child.bytes.length;
    }
  }
  return { tag, bytes: bytes.subarray(start, end), contents, children };
}

/** X.690 10.1: the definite form in the fewest octets. */
function boundsOf(bytes: Uint8Array, start: number): { contentsStart: number; end: number } {
  const first = bytes[start + 1];
  if (first === undefined) throw new DerFault('a value is cut short');
  if (first === 0x80) throw new DerFault('a length is indefinite');
  let length = first;
  let contentsStart = start + 2;
  if (first > 0x80) {
    const octets = first & 0x7f;
    if (octets > 3) throw new DerFault('a length is out of range');
    length = 0;
    for (let index = 0; index < octets; index += 1) length = length * 256 + (bytes[contentsStart + index] ?? 0);
    if (length < 0x80 || length < 256 ** (octets - 1)) throw new DerFault('a length is not in its shortest form');
    contentsStart += octets;
  }
  const end = contentsStart + length;
  if (end > bytes.length) throw new DerFault('a value is cut short');
  return { contentsStart, end };
}

/** X.690 8.3.2, 8.8.2, 10.2 and 11.1: what a value of a universal type may look like. */
function checkForm(tag: number, contents: Uint8Array): void {
  if ((tag & 0x1f) === 0x1f) throw new DerFault('a tag has more than one octet');
  if (tag >= 0x40) return;
  if (tag === 0) throw new DerFault('an end-of-contents mark stands in a definite value');
  const composite = (tag & 0x1f) === 0x10 || (tag & 0x1f) === 0x11;
  if (composite !== Boolean(tag & 0x20)) throw new DerFault('a value has the wrong one of the two forms');
  const [first, second = 0] = contents;
  if (tag === tags.boolean && (contents.length !== 1 || (first !== 0 && first !== 0xff)))
    throw new DerFault('a truth value is neither 00 nor FF');
  if (tag === tags.null && contents.length !== 0) throw new DerFault('a null has contents');
  if (tag !== tags.integer) return;
  if (first === undefined) throw new DerFault('an integer is empty');
  const padded = (first === 0 && second < 0x80) || (first === 0xff && second >= 0x80);
  if (contents.length > 1 && padded) throw new DerFault('an integer is not in its shortest form');
}

function header(tag: number, length: number): Buffer {
  if (length < 0x80) return Buffer.of(tag, length);
  if (length < 0x100) return Buffer.of(tag, 0x81, length);
  if (length < 0x10000) return Buffer.of(tag, 0x82, length >> 8, length & 0xff);
  if (length < 0x1000000) return Buffer.of(tag, 0x83, length >> 16, (length >> 8) & 0xff, length & 0xff);
  return Buffer.of(tag, 0x84, length >>> 24, (length >> 16) & 0xff, (length >> 8) & 0xff, length & 0xff);
}
