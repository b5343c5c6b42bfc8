import { randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import type { Database } from './client.ts';
import { events } from './schema.ts';

/**
 * Judges closed sessions that are due: one whose client has not come back is told as `device.disconnected`, and a device
 * without any open session is disconnected. Any gateway may call it at any time; each check is judged once. Gives how
 * many there were.
 */
export async function settlePresence(db: Database, limit = 1_000): Promise<number> {
  return db.transaction(async (tx) => {
    const due = await tx.execute<DueCheck & Record<string, unknown>>(sql`
      with due as (
        delete from presence_checks where id in (
          select id from presence_checks where due_at <= now() order by id limit ${limit} for update skip locked)
        returning device_id, client_id, epoch, reason
      ), flipped as (
        update presence p set connected = false, reason = f.reason, changed_at = now()
        from (
          select distinct on (due.device_id) due.device_id, due.reason, seen.version
          from due join presence seen on seen.device_id = due.device_id
          where not exists (select from sessions s where s.device_id = due.device_id and s.closed_at is null)
          order by due.device_id, due.epoch desc
        ) f
        where p.device_id = f.device_id and p.version = f.version and p.connected
      )
      select due.device_id as "deviceId", due.client_id as "clientId", due.epoch::float8 as version, due.reason,
        (select p.certificate_id from presence p where p.device_id = due.device_id) as "certificateId",
        exists (select from sessions s where s.device_id = due.device_id and s.client_id = due.client_id
          and s.epoch > due.epoch) as returned
      from due`);
    const gone = due.filter(({ returned }) => !returned);
    if (gone.length > 0) {
      await tx.insert(events).values(
        gone.map(({ deviceId, clientId, version, reason, certificateId }) => ({
          id: randomUUIDv7(),
          xid: sql`pg_current_xact_id()`,
          kind: 'device.disconnected',
          deviceId,
          data: { clientId, version, reason, certificateId },
        })),
      );
    }
    return due.length;
  });
}

type DueCheck = {
  deviceId: string;
  clientId: string;
  version: number;
  reason: string;
  certificateId: string | null;
  /** The client has opened its session again since. */
  returned: boolean;
};
