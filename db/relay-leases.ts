import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';

/**
 * Renews this gateway's shards of the outbox and takes free ones, up to its fair share among the gateways that live;
 * what it holds beyond that is freed. Returns what it holds now. To be called only while none of them is being sent from.
 */
export async function renewRelayLeases(db: Db, gatewayId: string, leaseMs: number): Promise<number[]> {
  const until = sql`now() + ${leaseMs} * interval '1 millisecond'`;
  const rows = await db.execute<{ shard: number; held: boolean }>(sql`
    with living as (
      select gateway_id as id from relay_leases where leased_until > now() and gateway_id is not null
      union select id from gateways where stopped_at is null and beat_at > now() - interval '20 seconds'
      union select ${gatewayId}::uuid
    ), share as (
      select ceil(64.0 / count(*)) as shards from living
    ), candidates as (
      select shard, row_number() over (order by leased_until > now() desc, shard) as place
      from (
        select shard, leased_until from relay_leases
        where gateway_id = ${gatewayId}::uuid or leased_until <= now()
        order by shard for update skip locked
      ) mine_or_free
    ), renewed as (
      update relay_leases l
      set gateway_id = case when c.place <= s.shards then ${gatewayId}::uuid end,
        leased_until = case when c.place <= s.shards then ${until} else '-infinity' end
      from candidates c, share s
      where l.shard = c.shard and (c.place <= s.shards or l.gateway_id = ${gatewayId}::uuid)
      returning l.shard, l.gateway_id is not null as held
    )
    select shard::int, held from renewed order by shard`);
  return rows.filter(({ held }) => held).map(({ shard }) => shard);
}

/** Frees all of them, so that another gateway need not wait for their end. */
export async function releaseRelayLeases(db: Db, gatewayId: string): Promise<void> {
  await db.execute(sql`
    update relay_leases set gateway_id = null, leased_until = '-infinity' where gateway_id = ${gatewayId}::uuid`);
}
