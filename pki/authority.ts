import { createPrivateKey, hash, X509Certificate } from 'node:crypto';

import { openListSigner, type ListSigner } from './crl.ts';
import { hex } from './der.ts';
import {
  issueLeaf,
  makeSerial,
  wholeSeconds,
  type IssueLimits,
  type IssueRequest,
  type IssuedCertificate,
} from './issue.ts';
import { subjectOf } from './names.ts';
import { encodePem } from './pem.ts';
import { keyAlgorithmOf } from './public-keys.ts';
import { seal, unseal } from './sealing.ts';
import { localSigner, type Signer } from './signers.ts';
import { certifyAuthority, issuerExtensions, leafExtensions } from './x509.ts';

export { AuthorityEnding, type IssueRequest, type IssuedCertificate } from './issue.ts';

/** The one way to a signature, so that a KMS or an HSM can stand behind it as well. */
export interface Authority extends ListSigner {
  readonly certificatePem: string;
  readonly rootPem: string;
  /** Refuses with `AuthorityEnding`; anything else it throws is a request that nobody judged before. */
  issue(request: IssueRequest): Promise<IssuedCertificate>;
}

export type AuthorityMaterial = {
  id: string;
  rootPem: string;
  issuingPem: string;
  /** Where lists of revoked certificates are served: this authority's is `<crlUrl>/<id>.crl`. */
  crlUrl?: string | undefined;
  limits?: Partial<IssueLimits>;
} & (SealedKey | { signer: Signer });

/** The issuing key, encrypted under another of 32 bytes. */
export type SealedKey = { encryptedKey: Uint8Array; keyEncryptionKey: Uint8Array };

/** An authority's certificate with what a row of it says; the private key is beside it and not in it. */
export type AuthorityCertificate = {
  certificatePem: string;
  der: Uint8Array;
  serial: string;
  subject: string;
  spkiSha256: Uint8Array;
  fingerprint: Uint8Array;
  notBefore: Date;
  notAfter: Date;
};

export type CreateAuthorities = {
  /** 32 bytes; the issuing key is kept under it. */
  keyEncryptionKey: Uint8Array;
  names?: { root?: string; issuing?: string };
  lifetimes?: { rootMs?: number; issuingMs?: number };
  now?: Date;
};

const dayMs = 24 * 60 * 60 * 1000;

const issueLimits: IssueLimits = {
  backdateMs: 5 * 60 * 1000,
  marginMs: dayMs,
  minimumMs: { device: 30 * dayMs, claim: dayMs, service: 30 * dayMs, server: 7 * dayMs },
};

const authorityNames = { root: 'Longhaul root authority', issuing: 'Longhaul issuing authority' };
const authorityLifetimes = { rootMs: 20 * 365 * dayMs, issuingMs: 10 * 365 * dayMs };

/**
 * Makes a root (P-384) and an issuing authority (P-256) under it. The root's key is in the answer, once, to be put
 * where only its owner finds it; the issuing key is in it encrypted.
 */
export async function createAuthorities({
  keyEncryptionKey,
  now = new Date(),
  ...options
}: CreateAuthorities): Promise<{
  root: AuthorityCertificate & { privateKeyPem: string };
  issuing: AuthorityCertificate & { encryptedKey: Uint8Array };
}> {
  const names = { ...authorityNames, ...options.names };
  const lifetimes = { ...authorityLifetimes, ...options.lifetimes };
  const root = await createRoot({ name: names.root, lifetimeMs: lifetimes.rootMs, now });
  const { signer, encryptedKey } = await makeSealedKey(keyEncryptionKey);
  const request = { root, spki: signer.spki, name: names.issuing, lifetimeMs: lifetimes.issuingMs, now };
  return { root, issuing: { ...(await createIssuing(request)), encryptedKey } };
}

export type CreateRoot = { name?: string; lifetimeMs?: number; now?: Date };

/** Makes a root on P-384 that nobody stands above. Its key is in the answer, once. */
export async function createRoot({ now = new Date(), ...options }: CreateRoot = {}): Promise<
  AuthorityCertificate & { privateKeyPem: string }
> {
  const { name = authorityNames.root, lifetimeMs = authorityLifetimes.rootMs } = options;
  const root = { ...(await makeAuthorityKey('P-384')), name };
  const certificate = await certifyUnder(root, { subject: root, lifetimeMs, pathLength: 1, now });
  return { ...certificate, privateKeyPem: encodePem('PRIVATE KEY', root.pkcs8) };
}

/** A new issuing key, with what is kept of it. */
export async function makeSealedKey(
  keyEncryptionKey: Uint8Array,
): Promise<{ signer: Signer; encryptedKey: Uint8Array }> {
  const { pkcs8, spki } = await makeAuthorityKey('P-256');
  const encryptedKey = seal(pkcs8, keyEncryptionKey, hash('sha256', spki, 'buffer'));
  return { signer: openSealed({ encryptedKey, keyEncryptionKey }, spki), encryptedKey };
}

export type CreateIssuing = {
  root: { certificatePem: string; privateKeyPem: string };
  /** Of the key of the new authority, wherever that is kept: SubjectPublicKeyInfo in DER, on P-256. */
  spki: Uint8Array;
  name?: string;
  lifetimeMs?: number;
  now?: Date;
};

/** The certificate of another issuing authority under the root, which it never outlives. */
export async function createIssuing({ root, spki, now = new Date(), ...options }: CreateIssuing) {
  const above = new X509Certificate(root.certificatePem);
  const signer = await importAuthorityKey(root.privateKeyPem, above);
  const { name = authorityNames.issuing, lifetimeMs = authorityLifetimes.issuingMs } = options;
  const left = above.validToDate.getTime() - now.getTime();
  const subject = { spki, name };
  return certifyUnder(signer, { subject, lifetimeMs: Math.min(lifetimeMs, left), pathLength: 0, now });
}

type Above = Parameters<typeof certifyAuthority>[0]['signer'];
type Below = { subject: { spki: Uint8Array; name: string }; lifetimeMs: number; pathLength: number; now: Date };

async function certifyUnder(signer: Above, { subject, lifetimeMs, pathLength, now }: Below) {
  const notBefore = wholeSeconds(now.getTime() - issueLimits.backdateMs);
  const notAfter = wholeSeconds(now.getTime() + lifetimeMs);
  const serial = hex(makeSerial());
  const der = await certifyAuthority({ signer, subject, serial, notBefore, notAfter, pathLength });
  return describe(der, subject, { serial, notBefore, notAfter });
}

async function importAuthorityKey(privateKeyPem: string, certificate: X509Certificate): Promise<Above> {
  const { publicKey, subject } = certificate;
  if (!certificate.checkPrivateKey(createPrivateKey(privateKeyPem))) {
    throw new Error("The key is not the root's");
  }
  const pkcs8 = createPrivateKey(privateKeyPem).export({ format: 'der', type: 'pkcs8' });
  const algorithm = { name: 'ECDSA', namedCurve: 'P-384' };
  const privateKey = await crypto.subtle.importKey('pkcs8', Uint8Array.from(pkcs8), algorithm, false, ['sign']);
  const spki = publicKey.export({ format: 'der', type: 'spki' });
  // Our own roots have one common name, and nothing else.
  return { privateKey, spki, name: subject.replace(/^CN=/, '') };
}

/**
 * Opens the signer of an issuing authority. Material that does not belong together is refused: another key encryption
 * key, a key that is not the certificate's, a certificate that is no authority under the root.
 */
export async function openAuthority(material: AuthorityMaterial): Promise<Authority> {
  const root = new X509Certificate(material.rootPem);
  const issuing = new X509Certificate(material.issuingPem);
  const spki = issuing.publicKey.export({ type: 'spki', format: 'der' });
  const signer = 'signer' in material ? material.signer : openSealed(material, spki);
  if (keyAlgorithmOf(spki) !== 'P-256') throw new Error('The issuing key is not on P-256');
  if (!spki.equals(signer.spki)) throw new Error('The issuing key is not the key of its certificate');
  if (!issuing.ca || !issuing.checkIssued(root) || !issuing.verify(root.publicKey))
    throw new Error('The issuing certificate is not that of an authority under the root');

  const certificatePem = encodePem('CERTIFICATE', issuing.raw);
  const crlUrl = material.crlUrl && `${material.crlUrl.replace(/\/$/, '')}/${material.id}.crl`;
  const common = issuerExtensions(issuing.raw, crlUrl);
  const client = Buffer.concat([leafExtensions('clientAuth'), common]);
  const server = Buffer.concat([leafExtensions('serverAuth'), common]);
  const issuer = {
    id: material.id,
    certificatePem,
    signer,
    name: subjectOf(issuing.raw),
    notAfter: issuing.validToDate,
    fixedExtensions: { device: client, claim: client, service: client, server },
    limits: { ...issueLimits, ...material.limits },
  };
  return {
    id: material.id,
    certificatePem,
    rootPem: encodePem('CERTIFICATE', root.raw),
    issue: async (request) => issueLeaf(issuer, request),
    crl: openListSigner({ id: material.id, certificatePem, signer, certifies: 'leaves' }).crl,
  };
}

function openSealed({ encryptedKey, keyEncryptionKey }: SealedKey, spki: Uint8Array): Signer {
  const pkcs8 = unseal(encryptedKey, keyEncryptionKey, hash('sha256', spki, 'buffer'));
  const privateKey = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
  pkcs8.fill(0);
  return localSigner(privateKey);
}

async function makeAuthorityKey(namedCurve: 'P-256' | 'P-384') {
  const { privateKey, publicKey } = await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve }, true, ['sign']);
  const pkcs8 = new Uint8Array(await crypto.subtle.exportKey('pkcs8', privateKey));
  const spki = new Uint8Array(await crypto.subtle.exportKey('spki', publicKey));
  return { privateKey, pkcs8, spki };
}

function describe(
  der: Uint8Array,
  { spki, name }: { spki: Uint8Array; name: string },
  rest: Pick<AuthorityCertificate, 'serial' | 'notBefore' | 'notAfter'>,
): AuthorityCertificate {
  return {
    certificatePem: encodePem('CERTIFICATE', der),
    der,
    subject: `CN=${name}`,
    spkiSha256: hash('sha256', spki, 'buffer'),
    fingerprint: hash('sha256', der, 'buffer'),
    ...rest,
  };
}
