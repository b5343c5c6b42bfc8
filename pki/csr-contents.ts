import { decode, DerFault, hex, tags, type Element } from './der.ts';
import type { Csr } from './csr.ts';
import { deviceUri } from './names.ts';
import { oids } from './object-identifiers.ts';
import { CsrFault } from './refusals.ts';

type Extension = { id: string; value: Uint8Array };

/**
 * Refuses a request that asks for what no device gets, or that names somebody else. Nothing that is read here is ever
 * issued: names and extensions of a certificate come from the registry and the profile. The names that it
 * carries; `?` is one that nobody here could have.
 */
export function checkContents(csr: Csr, expectedNames: string[] | undefined): string[] {
  const extensions = requestedExtensions(csr.attributes);
  for (const { id, value } of extensions) demands.get(id)?.(decodeValue(value));
  const commonNames = commonNamesOf(csr.subject).filter((name) => name !== '');
  const alternatives = extensions.filter(({ id }) => id === oids.subjectAlternativeName);
  const alternativeNames = alternatives.flatMap(({ value }) =>
    readAlternativeNames(value, expectedNames !== undefined),
  );
  if (expectedNames && !commonNames.every((name) => expectedNames.includes(name)))
    throw wrongName('common name', expectedNames);
  const accepted = expectedNames && [...expectedNames, ...expectedNames.map(deviceUri)];
  if (expectedNames && !alternativeNames.every((name) => accepted?.includes(name)))
    throw wrongName('subject alternative name', expectedNames);
  return [...commonNames, ...alternativeNames].map((name) => (/^[\x20-\x7e]{1,256}$/.test(name) ? name : '?'));
}

/** RFC 2985 5.4.2: one attribute with one value, which is one list without repetition (RFC 5280 4.2). */
function requestedExtensions(attributes: Element[]): Extension[] {
  const lists = attributes.flatMap((attribute) => {
    const [type, values] = children(attribute, 'An attribute');
    if (type?.tag !== tags.objectIdentifier || values?.tag !== tags.set) throw malformed('An attribute');
    const id = hex(type.contents);
    return id === oids.extensionRequest || id === oids.microsoftExtensionRequest ? [values] : [];
  });
  if (lists.length > 1 || (lists[0] && lists[0].children.length !== 1))
    throw new CsrFault(
      'several-extension-requests',
      'A request may carry one extensionRequest attribute of one value.',
    );
  const list = lists[0]?.children[0];
  const extensions = list ? children(list, 'An extension list').map(readExtension) : [];
  if (new Set(extensions.map(({ id }) => id)).size !== extensions.length)
    throw new CsrFault('repeated-extension', 'A request may ask for each extension once.');
  return extensions;
}

function readExtension(extension: Element): Extension {
  const [id, ...rest] = children(extension, 'An extension');
  const value = rest.pop();
  if (id?.tag !== tags.objectIdentifier || value?.tag !== tags.octetString) throw malformed('An extension');
  if (rest.length > 1 || (rest[0] && rest[0].tag !== tags.boolean)) throw malformed('An extension');
  return { id: hex(id.contents), value: value.contents };
}

/** Only the extensions that we judge have to be in a form of ours. */
function decodeValue(value: Uint8Array): Element {
  try {
    return decode(value);
  } catch (fault) {
    if (fault instanceof DerFault) throw malformed('An extension');
    throw fault;
  }
}

/** What may be asked for, by extension (RFC 5280 4.2.1.9, 4.2.1.3 and 4.2.1.12). */
const demands = new Map<string, (value: Element) => void>([
  [oids.basicConstraints, checkBasicConstraints],
  [oids.keyUsage, checkKeyUsage],
  [oids.extendedKeyUsage, checkExtendedKeyUsage],
]);

function checkBasicConstraints(value: Element): void {
  const [authority] = children(value, 'An extension');
  if (authority?.tag === tags.boolean && authority.contents[0] !== 0)
    throw new CsrFault('asks-for-authority', 'A device is no authority: CA must be false or absent.');
}

function checkKeyUsage(value: Element): void {
  if (value.tag !== tags.bitString) throw malformed('An extension');
  const [, usages = 0] = value.contents;
  if (usages & (keyCertSign | crlSign))
    throw new CsrFault('asks-to-sign-certificates', 'The key usages keyCertSign and cRLSign are not given to devices.');
}

/** Bits of KeyUsage in its first octet. */
const keyCertSign = 0x04;
const crlSign = 0x02;

function checkExtendedKeyUsage(value: Element): void {
  const purposes = children(value, 'An extension').map((purpose) => hex(purpose.contents));
  if (purposes.includes(oids.serverAuth) || purposes.includes(oids.anyExtendedKeyUsage))
    throw new CsrFault('asks-for-server-auth', 'The extended key usages serverAuth and any are not given to devices.');
}

/** Every part of a name is read (RFC 5280 4.1.2.4), whether or not one is expected. */
function commonNamesOf(subject: Element): string[] {
  return subject.children.flatMap((part) => {
    if (part.tag !== tags.set) throw malformed('A name');
    return part.children.flatMap((attribute) => {
      const [type, value, ...rest] = children(attribute, 'A name');
      if (type?.tag !== tags.objectIdentifier || !value || rest.length > 0) throw malformed('A name');
      return hex(type.contents) === oids.commonName ? [text(value)] : [];
    });
  });
}

/**
 * Any kind of alternative name is a name, so an IP address or a mail address differs by being one. Where nobody compares
 * them, a form that is none of ours is let pass as a name that equals nothing.
 */
function readAlternativeNames(value: Uint8Array, strictly: boolean): string[] {
  try {
    return children(decodeValue(value), 'An extension')
      .map(text)
      .filter((name) => name !== '');
  } catch (fault) {
    if (strictly) throw fault;
    return ['?'];
  }
}

/** Only ASCII can equal a name of ours, so every other encoding just differs. */
const text = (value: Element): string => Buffer.from(value.contents).toString('latin1');

function children(element: Element, what: string): Element[] {
  if (element.tag !== tags.sequence) throw malformed(what);
  return element.children;
}

const malformed = (what: string) => new CsrFault('malformed-contents', `${what} in the request is not in its form.`);

const wrongName = (where: string, expectedNames: string[]) =>
  new CsrFault('wrong-name', `The ${where} must be absent, empty or ${expectedNames.join(' or ') || 'nothing else'}.`);
