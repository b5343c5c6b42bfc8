import { insertAudit } from '../db/audit.ts';
import { findCertificateState, insertCertificate, revokeCertificate } from '../db/certificates.ts';
import type { Db } from '../db/client.ts';
import { detachCertificate, type EnrolmentRow } from '../db/enrolments.ts';
import { findManufacturerOfClaim, forgetAdopted } from '../db/manufacturer-authorities.ts';
import { readDeviceCertificate } from '../pki/device-certificates.ts';
import { refusal } from '../workflows/refusals.ts';
import { keyInUse, type Permission } from './certification.ts';

/** Keeps a manufacturer's certificate as the device's own, still to be activated. Its id is the SHA-256 of its DER. */
export async function adoptCertificate(tx: Db, { claim, spkiSha256 }: Permission, pem: string): Promise<string> {
  const certificate = readDeviceCertificate(pem);
  if ('fault' in certificate)
    throw refusal('CertificateRefused', `the certificate is refused: ${certificate.fault}`, 403);
  const key = Buffer.from(spkiSha256).toString('hex');
  if (certificate.key !== key) throw new Error('a certificate is to be adopted for another key than its own');
  const manufacturer = await findManufacturerOfClaim(tx, claim.id);
  if (manufacturer?.state !== 'ACTIVE') throw refusal('AuthorityRetired', 'the authority is not trusted any more', 403);
  const { fingerprint: id, serial, notBefore, notAfter } = certificate;
  const issuer = { authorityId: null, manufacturerAuthorityId: manufacturer.id };
  const row = { id, ...issuer, serial, notBefore, notAfter, spkiSha256, pem: certificate.pem, subject: id };
  const state = 'PENDING_ACTIVATION';
  if (!(await insertCertificate(tx, { ...row, fingerprint: Buffer.from(id, 'hex'), kind: 'device', state })))
    throw keyInUse();
  await insertAudit(tx, `claim/${claim.id}`, {
    action: 'certificate.adopted',
    subject: `certificate/${id}`,
    data: { claimId: claim.id, manufacturerAuthorityId: manufacturer.id, spkiSha256: key },
  });
  return id;
}

/**
 * Takes back what an enrolment gave and nobody has used; `kept` when it was used. One that was adopted is forgotten: it is the
 * device's for good, which may come with it again.
 */
export async function takeBack(
  tx: Db,
  { id, certificateId, adopts }: EnrolmentRow,
): Promise<'revoked' | 'forgotten' | 'kept' | 'none'> {
  if (!certificateId) return 'none';
  if ((await findCertificateState(tx, certificateId)) === 'ACTIVE') return 'kept';
  if (!adopts) {
    const revocation = { id: certificateId, reason: 'neverUsed', from: ['PENDING_ACTIVATION' as const] };
    if (await revokeCertificate(tx, revocation)) return 'revoked';
    return (await findCertificateState(tx, certificateId)) === 'ACTIVE' ? 'kept' : 'none';
  }
  await detachCertificate(tx, id);
  return (await forgetAdopted(tx, certificateId)) ? 'forgotten' : 'none';
}
