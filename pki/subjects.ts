import { X509Certificate } from 'node:crypto';

import { decode, hex, tags, type Element } from './der.ts';
import { oids } from './object-identifiers.ts';

/** The parts of a distinguished name (RFC 5280 4.1.2.4) that say which device it is; each only where it stands once. */
export type SubjectFields = {
  commonName?: string;
  serialNumber?: string;
  organization?: string;
  organizationalUnit?: string;
};

const fields = new Map<string, keyof SubjectFields>([
  [oids.commonName, 'commonName'],
  [oids.serialNumber, 'serialNumber'],
  [oids.organization, 'organization'],
  [oids.organizationalUnit, 'organizationalUnit'],
]);

const lengthMax = 256;

/**
 * Reads a Name. What stands twice is left out, as is what is longer than anybody's name or not in one of the encodings
 * that are still used, or holds a control character: nothing is guessed.
 */
export function readSubject(name: Element): SubjectFields {
  const found = new Map<keyof SubjectFields, (string | undefined)[]>();
  for (const attribute of name.children.flatMap(({ children }) => children)) {
    const [type, value] = attribute.children;
    const field = type && fields.get(hex(type.contents));
    if (field) found.set(field, [...(found.get(field) ?? []), value && readText(value)]);
  }
  const once = [...found].flatMap(([field, [value, ...more]]) => (value && more.length === 0 ? [[field, value]] : []));
  return Object.fromEntries(once) as SubjectFields; // the entries are named by the map above
}

/** The subject of a certificate that a handshake has proven, in DER. */
export function subjectOfCertificate(der: Uint8Array): SubjectFields {
  const subject = decode(new X509Certificate(der).raw).children[0]?.children[5];
  return subject ? readSubject(subject) : {};
}

const utf8 = new TextDecoder('utf-8', { fatal: true });
const printable = /^[A-Za-z0-9 '()+,\-./:=?]*$/;
const visible = /^[\x20-\x7e]*$/;

function readText({ tag, contents }: Element): string | undefined {
  if (contents.length === 0 || contents.length > lengthMax) return undefined;
  try {
    const text = utf8.decode(contents);
    if (tag === tags.utf8String) return /\p{Cc}/u.test(text) ? undefined : text;
    if (tag === tags.printableString && printable.test(text)) return text;
    return tag === tags.ia5String && visible.test(text) ? text : undefined;
  } catch {
    return undefined;
  }
}
