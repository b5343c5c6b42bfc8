import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import type { EventPosition } from './events.ts';
import { executePrepared } from './prepared.ts';

export type SubjectEvent = EventPosition & {
  kind: string;
  /** By its name. */
  device: string | null;
  data: Record<string, unknown>;
  atMs: number;
};

/** How many events are read at a time. It stands in the statement as it is, so that the plan can count on it. */
export const eventsMax = 500;

/**
 * What happened to a subject after a place, in order, below the oldest running transaction: nothing can appear before
 * what was read.
 */
export async function listEventsOf(db: Db, subject: string, after: EventPosition): Promise<SubjectEvent[]> {
  return executePrepared<SubjectEvent>(
    db,
    sql`
    select p.id, p.xid::text as xid, p.kind, (select d.name from devices d where d.id = p.device_id) as device, p.data,
      (extract(epoch from p.at) * 1000)::float8 as "atMs"
    from (
      select * from events e
      where e.subject = ${subject}::text and (e.xid, e.id) > (${after.xid}::text::xid8, ${after.id}::uuid)
        and e.xid < pg_snapshot_xmin(pg_current_snapshot())
      order by e.xid, e.id limit ${sql.raw(String(eventsMax))}
    ) p
    order by p.xid, p.id`,
  );
}
