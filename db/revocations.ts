import { eq, sql } from 'drizzle-orm';
import type { Actor } from './audit.ts';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import { revocations } from './revocation-schema.ts';

export type AskRevocation = { certificateId: string; reason: string; workflow: { id: string; name: string } };

/**
 * Revokes the certificate, in one statement with everything that follows from it: its entry on the feed that every gateway
 * follows, the start of its lifecycle, audit entry and event. Asking again changes nothing, and the first reason stands, also
 * of a certificate that was revoked otherwise; that one gets its lifecycle now. False when there is no such certificate.
 */
export async function askRevocation(
  db: Db,
  actor: Actor,
  { certificateId, reason, workflow }: AskRevocation,
): Promise<boolean> {
  const rows = await executePrepared<{ known: boolean }>(
    db,
    sql`
    with found as materialized (
      select id, device_id, state, revocation_reason from certificates where id = ${certificateId}::text for update
    ), fed as (
      insert into feed (kind, subject) select 'certificate', id from found
      where not exists (select from revocations r where r.certificate_id = found.id)
      returning id
    ), asked as (
      insert into revocations (certificate_id, reason, asked_by, asked_at, feed_id)
      select found.id, coalesce(found.revocation_reason, ${reason}::text), ${actor}::text, now(), fed.id from found, fed
      on conflict do nothing
      returning certificate_id, reason
    ), revoked as (
      update certificates c set state = 'REVOKED', revocation_reason = a.reason, revoked_at = clock_timestamp()
      from asked a where c.id = a.certificate_id and c.state <> 'REVOKED'
      returning c.id, c.device_id, a.reason
    ), started as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(${workflow.id}::text), 'start', ${workflow.id}::text, ${workflow.name}::text,
        jsonb_build_object('certificateId', certificate_id) from asked
    ), recorded as (
      insert into audit (id, actor, action, subject, data)
      select uuid_now(), ${actor}::text, 'certificate.revoked', 'certificate/' || id, jsonb_build_object('reason', reason)
      from revoked
    ), announced as (
      insert into events (id, kind, device_id, subject, data)
      select uuid_now(), 'certificate.revoked', device_id, 'certificate/' || id, jsonb_build_object('certificateId', id,
        'reason', reason)
      from revoked
    )
    select true as known from found`,
  );
  return rows.length > 0;
}

export type RevocationRow = typeof revocations.$inferSelect;

export async function findRevocation(db: Db, certificateId: string): Promise<RevocationRow | undefined> {
  const [row] = await db.select().from(revocations).where(eq(revocations.certificateId, certificateId));
  return row;
}

/** What was measured of a revocation; times in milliseconds since 1970, by the database's clock. */
export type RevocationTimes = {
  reason: string;
  askedAtMs: number;
  revokedAtMs: number;
  /** When the last gateway had closed what it held, of those that held anything. */
  closedAtMs: number | null;
  sessionsClosed: number;
  gateways: number;
  listNumber: number | null;
  listedAtMs: number | null;
};

/**
 * Ends the revocation's lifecycle in its row, and gives what was measured. Undefined when it has ended already: what goes
 * with the end is done by whoever ended it.
 */
export async function finishRevocation(db: Db, certificateId: string): Promise<RevocationTimes | undefined> {
  const [row] = await db.execute<RevocationTimes>(sql`
    with finished as (
      update revocations set finished_at = clock_timestamp()
      where certificate_id = ${certificateId} and finished_at is null
      returning *
    )
    select f.reason, (extract(epoch from f.asked_at) * 1000)::float8 as "askedAtMs",
      (extract(epoch from c.revoked_at) * 1000)::float8 as "revokedAtMs",
      (extract(epoch from max(r.at) filter (where r.closed > 0)) * 1000)::float8 as "closedAtMs",
      coalesce(sum(r.closed), 0)::int as "sessionsClosed", count(r.gateway_id)::int as gateways,
      c.list_number::float8 as "listNumber",
      (extract(epoch from l.published_at) * 1000)::float8 as "listedAtMs"
    from finished f
    join certificates c on c.id = f.certificate_id
    left join feed_receipts r on r.feed_id = f.feed_id
    left join revocation_lists l on l.authority_id = c.authority_id and l.number = c.list_number
    group by f.reason, f.asked_at, c.revoked_at, c.list_number, l.published_at`);
  return row;
}
