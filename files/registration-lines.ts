import {
  attributeNamePattern,
  attributesMax,
  attributeValueLengthMax,
  deviceNamePattern,
  isPlain,
} from '../db/device-rules.ts';
import type { LineFault } from './lines.ts';

/** What a line of a registration file asks for, held to the rules that need no more than the line. */
export type AskedDevice = {
  name: string;
  attributes: Record<string, string>;
  groups: string[];
  /** SHA-256 of the SubjectPublicKeyInfo (RFC 5280 4.1.2.7) in DER: 64 hexadecimal digits in lower case. */
  fingerprint?: string;
  /** As it was given: PEM, or DER in base64. */
  certificate?: string;
};

/** `name` is there when it could be one. */
export type Judged = { asked: AskedDevice } | { name?: string; fault: LineFault };

const columns = ['name', 'serial', 'certificate', 'fingerprint', 'groups'];
const attributeColumn = 'attributes.';
const columnsMax = columns.length + attributesMax;
const groupsMax = 20;
const certificateLengthMax = 24_000;

/** What is wrong with the header of a CSV; undefined when it is good. A column that nobody knows is refused, not passed over. */
export function judgeHeader(header: string[]): string | undefined {
  if (header.length > columnsMax) return `there are at most ${columnsMax} columns`;
  const unknown = header.find((column) => !columns.includes(column) && !isAttributeColumn(column));
  if (unknown !== undefined) {
    const shown = JSON.stringify(unknown.slice(0, 80));
    return `the header names ${shown}; columns are ${columns.join(', ')} and attributes.<name>, divided by commas`;
  }
  if (new Set(header).size < header.length) return 'the header names a column twice';
  return header.includes('name') ? undefined : 'the header has no column called name';
}

const isAttributeColumn = (column: string) =>
  column.startsWith(attributeColumn) && attributeNamePattern.test(column.slice(attributeColumn.length));

/** Of a row of a CSV, whose header was judged. A field that is empty says nothing. */
export function judgeRow(header: string[], row: string[]): Judged {
  if (row.length !== header.length) {
    return {
      fault: { code: 'bad-columns', detail: `the line has ${row.length} columns, the header ${header.length}` },
    };
  }
  const said: Record<string, string> = {};
  const attributes: Record<string, string> = {};
  for (const [index, column] of header.entries()) {
    const value = row[index];
    if (!value) continue;
    if (value.includes('\ufffd')) return { fault: { code: 'bad-encoding', detail: `${column} is not UTF-8` } };
    if (column.startsWith(attributeColumn)) attributes[column.slice(attributeColumn.length)] = value;
    else said[column] = value;
  }
  const { groups, ...rest } = said;
  return judge({ ...rest, attributes, groups: groups?.split(';').map((name) => name.trim()) ?? [] });
}

/** Of a line of NDJSON: an object with the fields of a CSV; `attributes` is an object in it, and `groups` a list. */
export function judgeObject(said: unknown): Judged {
  if (typeof said !== 'object' || said === null || Array.isArray(said))
    return wrong('bad-json', 'the line is no object');
  const { attributes = {}, groups = [], ...texts } = said as Record<string, unknown>;
  for (const [field, value] of Object.entries(texts)) {
    if (!columns.includes(field)) return wrong('unknown-field', `the line has a field that nobody knows`);
    if (typeof value !== 'string') return wrong('bad-json', `${field} is no text`);
  }
  if (!isTexts(attributes)) return wrong('bad-json', 'attributes is no object of texts');
  if (!Array.isArray(groups) || !groups.every((name) => typeof name === 'string'))
    return wrong('bad-json', 'groups is no list of names');
  // Each of the fields was found to be one that is known, and a text.
  return judge({ ...(texts as Texts), attributes, groups });
}

const isTexts = (value: unknown): value is Record<string, string> =>
  typeof value === 'object' &&
  value !== null &&
  !Array.isArray(value) &&
  Object.values(value).every((each) => typeof each === 'string');

type Texts = { name?: string; serial?: string; certificate?: string; fingerprint?: string };

function judge({ name = '', serial, certificate, fingerprint, attributes, groups }: Texts & Rest): Judged {
  if (!deviceNamePattern.test(name)) {
    return wrong('bad-name', 'a name is 1 to 63 of A-Z a-z 0-9 _ . : - and starts with a letter or digit');
  }
  const given = serial === undefined ? attributes : { ...attributes, serial };
  const fault =
    (serial !== undefined && (attributes['serial'] ?? serial) !== serial
      ? { code: 'bad-attribute', detail: 'serial is given twice, and not alike' }
      : undefined) ??
    judgeAttributes(given) ??
    judgeGroups(groups) ??
    judgeKey({ certificate, fingerprint });
  if (fault) return { name, fault };
  const asked = { name, attributes: given, groups };
  return {
    asked: {
      ...asked,
      ...(fingerprint !== undefined && { fingerprint: fingerprint.toLowerCase() }),
      ...(certificate !== undefined && { certificate }),
    },
  };
}

type Rest = { attributes: Record<string, string>; groups: string[] };

function judgeAttributes(attributes: Record<string, string>): LineFault | undefined {
  let count = 0;
  for (const name in attributes) {
    const value = attributes[name] ?? '';
    count += 1;
    if (!attributeNamePattern.test(name)) return attributeFault('the name of an attribute breaks the rule');
    if (value.length > attributeValueLengthMax || !isPlain(value)) {
      return attributeFault(`${name} has more than ${attributeValueLengthMax} characters, or a control character`);
    }
  }
  return count > attributesMax ? attributeFault(`there are at most ${attributesMax} attributes`) : undefined;
}

const attributeFault = (detail: string): LineFault => ({ code: 'bad-attribute', detail });

function judgeGroups(groups: string[]): LineFault | undefined {
  if (groups.length <= groupsMax && groups.every((name) => deviceNamePattern.test(name))) return undefined;
  return { code: 'bad-group', detail: `groups are at most ${groupsMax} names, with ; between them in a CSV` };
}

function judgeKey({ certificate, fingerprint }: { certificate: string | undefined; fingerprint: string | undefined }) {
  if (fingerprint !== undefined && !/^[0-9a-f]{64}$/i.test(fingerprint)) {
    return { code: 'bad-fingerprint', detail: 'a fingerprint is the SHA-256 of a public key: 64 hexadecimal digits' };
  }
  if ((certificate?.length ?? 0) > certificateLengthMax) {
    return { code: 'bad-certificate', detail: `a certificate has ${certificateLengthMax} characters at most` };
  }
  return undefined;
}

const wrong = (code: string, detail: string): Judged => ({ fault: { code, detail } });
