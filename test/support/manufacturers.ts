import { createPublicKey, randomBytes, sign } from 'node:crypto';
import { bitString, encode, encodeTime, objectIdentifier, sequence, tags } from '../../pki/der.ts';
import { makeSerial } from '../../pki/issue.ts';
import { makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { oids } from '../../pki/object-identifiers.ts';
import { encodePem } from '../../pki/pem.ts';
import { ecdsaWithSha256 } from '../../pki/signed.ts';
import { keyIdentifier } from '../../pki/x509.ts';
import type { Credentials } from './gateway.ts';

export type Made = { pem: string; key: KeyPair; subject: Record<string, string> };
export type Making = {
  subject?: Record<string, string>;
  key?: KeyPair;
  /** Itself, where nobody is named. */
  issuer?: Pick<Made, 'key' | 'subject'>;
  authority?: boolean;
  pathLength?: number;
  purposes?: string[];
  notBefore?: Date;
  notAfter?: Date;
};

const dayMs = 86_400_000;
const clientAuth = '2b06010505070302';

/** A certificate of a manufacturer, as it stands: nothing is judged here. */
export function makeCertificate({ key = makeKeyPair(), subject = { commonName: fresh() }, ...making }: Making): Made {
  const { authority = false, pathLength, purposes, issuer = { key, subject } } = making;
  const constraints = authority ? [encode(tags.boolean, Buffer.of(0xff))] : [];
  if (pathLength !== undefined) constraints.push(encode(tags.integer, Buffer.of(pathLength)));
  const extensions = [
    extension(oids.basicConstraints, sequence(...constraints), true),
    extension(oids.keyUsage, encode(tags.bitString, authority ? Buffer.of(1, 0x06) : Buffer.of(7, 0x80)), true),
    extension(oids.subjectKeyIdentifier, encode(tags.octetString, keyIdentifier(spkiOf(key)))),
    extension('551d23', sequence(encode(0x80, keyIdentifier(spkiOf(issuer.key))))),
    ...(purposes ? [extension(oids.extendedKeyUsage, sequence(...purposes.map(objectIdentifier)))] : []),
  ];
  const { notBefore = new Date(Date.now() - dayMs), notAfter = new Date(Date.now() + 365 * dayMs) } = making;
  const contents = sequence(
    encode(tags.context0, encode(tags.integer, Buffer.of(2))),
    encode(tags.integer, makeSerial()),
    ecdsaWithSha256,
    nameOf(issuer.subject),
    sequence(encodeTime(notBefore), encodeTime(notAfter)),
    nameOf(subject),
    spkiOf(key),
    encode(tags.context3, sequence(...extensions)),
  );
  const signature = bitString(sign('sha256', contents, issuer.key.privateKeyPem));
  return { pem: encodePem('CERTIFICATE', sequence(contents, ecdsaWithSha256, signature)), key, subject };
}

export const makeRoot = (making: Making = {}) => makeCertificate({ authority: true, ...making });

/** A device of this issuer, with what stands between it and the root. */
export function makeFactoryDevice(issuer: Made, { between = [], ...making }: Making & { between?: Made[] } = {}) {
  const subject = { commonName: fresh(), organization: 'Acme' };
  const made = makeCertificate({ subject, purposes: [clientAuth], issuer, ...making });
  const certificate = [made, ...between].map(({ pem }) => pem).join('');
  const credentials: Credentials = { certificateId: '', certificate, privateKey: made.key.privateKeyPem };
  return { ...made, ...credentials, serial: made.subject['commonName'] ?? '' };
}

/** Registers the root over the API, with the code that it has signed. */
export async function register<Answer extends { body: unknown }>(
  ask: (method: string, path: string, body?: unknown) => Promise<Answer>,
  root: Made,
  template: string,
  more: object = {},
): Promise<Answer> {
  const { body } = await ask('POST', '/v1/manufacturer-authorities/codes');
  return ask('POST', '/v1/manufacturer-authorities', {
    name: 'Acme',
    template,
    certificatePem: root.pem,
    // What the answer of a code holds.
    proofPem: makeProof(root, (body as { code: string }).code).pem,
    ...more,
  });
}

export const makeProof = (issuer: Pick<Made, 'key' | 'subject'>, code: string) =>
  makeCertificate({ issuer, subject: { commonName: code } });

/** A template that names devices by what their manufacturer calls them. */
export const byManufacturer = {
  namePattern: '${manufacturer.organization}-${manufacturer.commonName}',
  parameters: [],
};

const fresh = () => randomBytes(5).toString('hex');
const spkiOf = ({ publicKeyPem }: KeyPair) => createPublicKey(publicKeyPem).export({ type: 'spki', format: 'der' });

const extension = (id: string, value: Uint8Array, critical = false) =>
  sequence(
    objectIdentifier(id),
    ...(critical ? [encode(tags.boolean, Buffer.of(0xff))] : []),
    encode(tags.octetString, value),
  );

function nameOf(subject: Record<string, string>): Buffer {
  const ids: Record<string, string> = oids;
  const parts = Object.entries(subject).map(([field, value]) =>
    encode(tags.set, sequence(objectIdentifier(ids[field] ?? ''), encode(tags.utf8String, Buffer.from(value)))),
  );
  return sequence(...parts);
}
