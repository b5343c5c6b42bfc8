import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { refusalOfCertificate, type SessionRefusal } from './session-openings.ts';

/** Which of these certificates may not be used any more, and why. */
export async function listRefusedCertificates(
  db: Db,
  certificateIds: string[],
): Promise<{ certificateId: string; refusal: SessionRefusal }[]> {
  const rows = await db.execute<{ certificateId: string; refusal: SessionRefusal | null }>(sql`
    select asked.id as "certificateId", ${refusalOfCertificate} as refusal
    from unnest(${sql.param(certificateIds)}::text[]) as asked (id)
    left join certificates c on c.id = asked.id
    left join devices d on d.id = c.device_id
    left join claims cl on c.kind = 'claim' and cl.certificate_id = c.id`);
  return rows.flatMap(({ certificateId, refusal }) => (refusal ? [{ certificateId, refusal }] : []));
}

/** Whom a certificate is of, by its row. The fields that another kind has are null. */
export type CertificateHolder = {
  refusal: SessionRefusal | null;
  kind: 'device' | 'claim' | 'service';
  certificateId: string;
  deviceId: string | null;
  deviceName: string | null;
  claimId: string | null;
  template: string | null;
};

/** By the SHA-256 of the certificate; undefined when it is none of ours. */
export async function findHolder(db: Db, fingerprint: Uint8Array): Promise<CertificateHolder | undefined> {
  const [row] = await db.execute<CertificateHolder>(sql`
    select ${refusalOfCertificate} as refusal, c.kind, c.id as "certificateId", d.id as "deviceId",
      d.name as "deviceName", cl.id as "claimId", cl.template
    from certificates c
    left join devices d on d.id = c.device_id
    left join claims cl on c.kind = 'claim' and cl.certificate_id = c.id
    where c.fingerprint = decode(${Buffer.from(fingerprint).toString('hex')}, 'hex')`);
  return row;
}
