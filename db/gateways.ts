import { eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { gateways } from './schema.ts';

/** Says that this gateway lives; also takes back a judgement that it does not. Gives the database's time. */
export async function beatGateway(db: Db, { id, address }: { id: string; address: string }): Promise<Date> {
  const now = sql`clock_timestamp()`;
  const [row] = await db
    .insert(gateways)
    .values({ id, address, startedAt: now, beatAt: now })
    .onConflictDoUpdate({ target: gateways.id, set: { beatAt: now, stoppedAt: null } })
    .returning({ beatAt: gateways.beatAt });
  if (!row) throw new Error('the beat was not written');
  return row.beatAt;
}

/** Ends this gateway in good order: nobody has to find it dead. */
export async function stopGateway(db: Db, id: string): Promise<void> {
  await db
    .update(gateways)
    .set({ stoppedAt: sql`now()` })
    .where(eq(gateways.id, id));
}

/**
 * Declares gateways dead that had not beaten for so long at that time of the database, and closes their sessions, whose
 * devices are judged after the debounce like those of any closed session. The time is the judge's own last beat: a
 * statement that Postgres comes to only after an outage would find all other beats old by then. Gives the ids of the dead.
 */
export async function buryGateways(
  db: Db,
  { at, deadAfterMs, debounceMs }: { at: Date; deadAfterMs: number; debounceMs: number },
): Promise<string[]> {
  const beatBefore = new Date(at.getTime() - deadAfterMs).toISOString();
  const rows = await db.execute<{ id: string }>(sql`
    with dead as (
      update gateways set stopped_at = now()
      where stopped_at is null and beat_at < ${beatBefore}
      returning id
    ), locked as materialized (
      select identity, client_id from sessions
      where gateway_id in (select id from dead) and closed_at is null
      order by identity, client_id for update
    ), closed as (
      update sessions s set closed_at = now(), reason = 'SERVER_ERROR'
      from locked l where s.identity = l.identity and s.client_id = l.client_id
      returning s.device_id, s.client_id, s.epoch, s.reason
    ), noted as (
      insert into presence_checks (device_id, client_id, epoch, reason, due_at)
      select device_id, client_id, epoch, reason, now() + make_interval(secs => ${debounceMs / 1000}::double precision)
      from closed where device_id is not null
    )
    select id from dead`);
  return rows.map(({ id }) => id);
}
