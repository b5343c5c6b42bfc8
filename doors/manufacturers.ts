import { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { findBlock } from '../db/blocks.ts';
import type { Db } from '../db/client.ts';
import { listTrustedManufacturers } from '../db/manufacturer-authorities.ts';
import { findAnchor } from '../pki/chains.ts';
import { readDeviceCertificate, type DeviceCertificate } from '../pki/device-certificates.ts';
import { subjectOfCertificate } from '../pki/subjects.ts';
import { refusal } from '../workflows/refusals.ts';
import type { Permit } from './entrance.ts';

/** A device as its manufacturer made it. */
export type Manufactured = { permit: Permit; certificate: DeviceCertificate };

const presentedMax = 8;

/** The certificates of a client whose handshake has proven them, in DER, its own first; none where nothing is proven. */
export function presentedBy(socket: Socket): Uint8Array[] {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return [];
  const presented: Buffer[] = [];
  let next = socket.getPeerCertificate(true);
  // A root is its own issuer.
  while (next?.raw && presented.length < presentedMax && !presented.some((raw) => raw.equals(next.raw))) {
    presented.push(next.raw);
    next = next.issuerCertificate;
  }
  return presented;
}

/**
 * Whose device has shown these certificates, and what that permits: by the authorities' rows as they are now, also where the
 * handshake was long ago or its TLS session was resumed. Undefined when they are of no registered manufacturer.
 */
export async function findManufactured(db: Db, [leaf, ...others]: Uint8Array[]): Promise<Manufactured | undefined> {
  if (!leaf) return undefined;
  const rows = await listTrustedManufacturers(db);
  if (rows.length === 0) return undefined;
  const anchors = rows.map((row) => ({ ...row, certificate: new X509Certificate(row.certificatePem) }));
  const shown = others.map((der) => new X509Certificate(der));
  const anchor = findAnchor(new X509Certificate(leaf), { shown, anchors });
  if (!anchor) return undefined;
  const certificate = readDeviceCertificate(Buffer.from(leaf).toString('base64'));
  if ('fault' in certificate)
    throw refusal('CertificateRefused', `the manufacturer's certificate is refused: ${certificate.fault}`, 403);
  if (await findBlock(db, { spkiSha256: Buffer.from(certificate.key, 'hex') }))
    throw refusal('DeviceBlocked', 'this device or its key is blocked', 403);
  const { claimId, template } = anchor;
  return { permit: { claimId, template, manufacturer: subjectOfCertificate(leaf) }, certificate };
}
