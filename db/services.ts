import { insertAudit, type Actor } from './audit.ts';
import { insertCertificate, wasKeyUsed } from './certificates.ts';
import type { NewCertificate } from './claims.ts';
import type { Db } from './client.ts';

/** The certificate of an application's identity. False when its key is in another certificate, or was a device's. */
export async function insertService(db: Db, actor: Actor, name: string, certificate: NewCertificate): Promise<boolean> {
  return db.transaction(async (tx) => {
    if (await wasKeyUsed(tx, certificate.spkiSha256)) return false;
    const row = { ...certificate, kind: 'service' as const, state: 'ACTIVE' as const, activatedAt: new Date() };
    if (!(await insertCertificate(tx, row))) return false;
    const spkiSha256 = Buffer.from(certificate.spkiSha256).toString('hex');
    await insertAudit(
      tx,
      actor,
      { action: 'service.created', subject: `service/${name}`, data: { certificateId: certificate.id } },
      { action: 'certificate.issued', subject: `certificate/${certificate.id}`, data: { kind: 'service', spkiSha256 } },
    );
    return true;
  });
}
