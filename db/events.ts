import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import type { events } from './schema.ts';

/** A place in the stream of events: transaction id, then id. */
export type EventPosition = { xid: string; id: string };
export type EventRow = Omit<typeof events.$inferSelect, 'at'> & { atMs: number };

const firstId = '00000000-0000-0000-0000-000000000000';

/** The place behind everything that has happened: what is read from there is new. */
export async function findEventsEnd(db: Db): Promise<EventPosition> {
  const [row] = await db.execute<{ xid: string }>(sql`select pg_snapshot_xmin(pg_current_snapshot())::text as xid`);
  if (!row) throw new Error('the database did not tell its snapshot');
  return { xid: row.xid, id: firstId };
}

/**
 * What happened after a place, in order, below the oldest running transaction: nothing can appear before what was read.
 */
export async function listEventsAfter(
  db: Db,
  { xid, id }: EventPosition,
  kinds: string[],
  limit = 500,
): Promise<EventRow[]> {
  const rows = await db.execute<EventRow & Record<string, unknown>>(sql`
    select id, xid::text, kind, device_id as "deviceId", data, (extract(epoch from at) * 1000)::float8 as "atMs"
    from events
    where (events.xid, id) > (${xid}::text::xid8, ${id}::uuid) and events.xid < pg_snapshot_xmin(pg_current_snapshot())
      and kind = any (${sql.param(kinds)}::text[])
    order by events.xid, id limit ${limit}`);
  return [...rows];
}
