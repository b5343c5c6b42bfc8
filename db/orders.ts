import { sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';

/** What a device is to be told now. `leftMs` is the time to its deadline by the database's clock. */
export type DueCommand = {
  deviceId: string;
  executionId: string;
  payload: Uint8Array;
  format: 'json' | 'cbor' | 'other';
  contentType: string;
  leftMs: number;
};

export type Ready = {
  deviceId: string;
  /** How many more it may be told before it acknowledges some. */
  room: number;
  /** What it has subscribed to. */
  formats: DueCommand['format'][];
};

/** The pause after the first attempt (0), the second (1), ...: 10, 30, 90, ... seconds and 15 minutes at most. */
export const pauseAfter = (attempt: SQL) => sql`least(10 * power(3, ${attempt}), 900) * interval '1 second'`;

/**
 * Claims the due orders of these devices, oldest first, and moves their next attempt on in the same statement: of two
 * triggers or two gateways, one gets an order. What a device was told before its newest connection is due again. Orders
 * past their deadline, and those in progress, are not given.
 */
export async function claimDueCommands(db: Db, ready: Ready[]): Promise<DueCommand[]> {
  const devices = sql.param(ready.map(({ deviceId }) => deviceId));
  const rooms = sql.param(ready.map(({ room }) => room));
  const formats = sql.param(ready.map((device) => `{${device.formats.join(',')}}`));
  return executePrepared<DueCommand>(
    db,
    sql`
    with due as (
      select o.device_id, o.id
      from unnest(${devices}::uuid[], ${rooms}::int[],
        ${formats}::text[]) as r (device_id, room, formats)
      cross join lateral (
        select p.device_id, p.id from orders p
        join command_targets t on t.execution_id = p.id join commands c on c.id = t.command_id
        where p.device_id = r.device_id and p.expires_at > now() and c.format = any (r.formats::text[])
          and (p.next_attempt_at <= now() or exists (
            select from sessions s where s.device_id = p.device_id and s.closed_at is null
              and s.connected_at > p.next_attempt_at - ${pauseAfter(sql`p.attempts - 1`)}))
        order by p.id limit r.room for update of p skip locked
      ) o
    ), claimed as (
      update orders o set attempts = attempts + 1, next_attempt_at = now() + ${pauseAfter(sql`attempts`)}
      from due where o.device_id = due.device_id and o.id = due.id
      returning o.device_id, o.id, o.expires_at
    )
    select claimed.device_id as "deviceId", claimed.id as "executionId", c.payload, c.format,
      c.content_type as "contentType", (extract(epoch from claimed.expires_at - clock_timestamp()) * 1000)::float8 as "leftMs"
    from claimed
    join command_targets t on t.execution_id = claimed.id
    join commands c on c.id = t.command_id
    order by claimed.device_id, claimed.id`,
  );
}
