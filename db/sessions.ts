import { and, eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { sessions } from './schema.ts';

/** Which session, and whose turn of it: every write after the opening says `where epoch = mine`. */
export type SessionKey = { identity: string; clientId: string; epoch: number };

const isMine = ({ identity, clientId, epoch }: SessionKey) =>
  and(eq(sessions.identity, identity), eq(sessions.clientId, clientId), eq(sessions.epoch, epoch));

/** Adds subscriptions, filter → QoS, to the row. False when the session is another connection's by now. */
export async function addSubscriptions(db: Db, key: SessionKey, filters: Record<string, 0 | 1>): Promise<boolean> {
  const added = await db
    .update(sessions)
    .set({ subscriptions: sql`${sessions.subscriptions} || ${JSON.stringify(filters)}::text::jsonb` })
    .where(isMine(key))
    .returning({ epoch: sessions.epoch });
  return added.length === 1;
}

/** Takes subscriptions out of the row. False when the session is another connection's by now. */
export async function removeSubscriptions(db: Db, key: SessionKey, filters: string[]): Promise<boolean> {
  const removed = await db
    .update(sessions)
    .set({ subscriptions: sql`${sessions.subscriptions} - ${sql.param(filters)}::text[]` })
    .where(isMine(key))
    .returning({ epoch: sessions.epoch });
  return removed.length === 1;
}

/** Without `expirySeconds`, those of the row stand. */
export type ClosedSession = SessionKey & { reason: string; expirySeconds: number | null };

/**
 * Closes sessions that are still these connections', and notes when their devices are judged: a device that has come
 * back by then was never away. Repeating it is safe: a closed session is not closed again.
 */
export async function closeSessions(
  db: Db,
  gone: ClosedSession[],
  { debounceMs }: { debounceMs: number },
): Promise<void> {
  await db.execute(sql`
    with gone as materialized (
      select * from json_to_recordset(${JSON.stringify(gone)}::text::json)
        as g (identity text, "clientId" text, epoch bigint, reason text, "expirySeconds" bigint)
    ), locked as materialized (
      select s.identity, s.client_id, g.reason, g."expirySeconds" as expiry_seconds
      from sessions s join gone g on s.identity = g.identity and s.client_id = g."clientId" and s.epoch = g.epoch
      where s.closed_at is null
      order by s.identity, s.client_id for update of s
    ), closed as (
      update sessions s set closed_at = now(), reason = l.reason,
        expiry_seconds = coalesce(l.expiry_seconds, s.expiry_seconds)
      from locked l where s.identity = l.identity and s.client_id = l.client_id
      returning s.device_id, s.client_id, s.epoch, s.reason
    )
    insert into presence_checks (device_id, client_id, epoch, reason, due_at)
    select device_id, client_id, epoch, reason, now() + make_interval(secs => ${debounceMs / 1000}::double precision)
    from closed where device_id is not null`);
}

/** What the rows say of the sessions that a gateway holds; ones opened in the last half minute may not be held yet. */
export async function listOpenSessions(db: Db, gatewayId: string): Promise<(SessionKey & { settled: boolean })[]> {
  return db
    .select({
      identity: sessions.identity,
      clientId: sessions.clientId,
      epoch: sessions.epoch,
      settled: sql<boolean>`${sessions.connectedAt} < now() - interval '30 seconds'`,
    })
    .from(sessions)
    .where(and(eq(sessions.gatewayId, gatewayId), sql`${sessions.closedAt} is null`));
}

/** Deletes sessions that ended long enough ago to be of no use to anybody: not resumed any more, and judged. */
export async function deleteEndedSessions(db: Db): Promise<void> {
  await db.execute(sql`
    delete from sessions
    where closed_at + make_interval(secs => greatest(coalesce(expiry_seconds, 'infinity'::double precision), 300)) < now()`);
}
