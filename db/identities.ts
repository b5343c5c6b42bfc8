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
