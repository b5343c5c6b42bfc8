import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';

export type EndingCertificate = { certificateId: string; device: string; notAfter: string };

/** Told at a time: more follow an hour later. */
const warningsMax = 1_000;

/**
 * Tells, once for each, of certificates that are past 80 % of their life and were not replaced, with audit entry and event. It
 * goes by the rows, so it is told also where no rotation is under way. Whoever calls is given what it told of. By the database's
 * own time, unless a clock is handed in.
 */
export async function warnOfCertificates(db: Db, at?: Date): Promise<EndingCertificate[]> {
  const now = at ? sql`${at.toISOString()}::timestamptz` : sql`now()`;
  const rows = await db.execute<EndingCertificate>(sql`
    with late as (
      select c.id, c.device_id, d.name, c.not_after from certificates c join devices d on d.id = c.device_id
      where certificate_due(c.not_before, c.not_after, c.device_id) <= ${now} and c.state = 'ACTIVE'
        and c.device_id is not null and c.not_after > ${now} and d.state <> 'BLOCKED'
        and ${now} >= c.not_before + (c.not_after - c.not_before) * 0.8
        and not exists (select from certificates n where n.device_id = c.device_id and n.state = 'ACTIVE'
          and n.not_after > c.not_after)
        and not exists (select from certificate_warnings w where w.certificate_id = c.id)
      order by c.id limit ${warningsMax}
    ), told as (
      insert into certificate_warnings (certificate_id) select id from late on conflict do nothing returning certificate_id
    ), named as (
      select l.* from late l join told t on t.certificate_id = l.id
    ), recorded as (
      insert into audit (id, actor, action, subject, data)
      select uuid_now(), 'system/lifecycle', 'certificate.ending', 'certificate/' || id,
        jsonb_build_object('device', name, 'notAfter', not_after) from named
    ), announced as (
      insert into events (id, kind, device_id, subject, data)
      select uuid_now(), 'certificate.ending', device_id, 'certificate/' || id,
        jsonb_build_object('certificateId', id, 'notAfter', not_after) from named
    )
    select id as "certificateId", name as device, not_after::text as "notAfter" from named`);
  return [...rows];
}
