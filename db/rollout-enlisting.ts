import { sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';

export type WaveRule = { count?: number | undefined; percent?: number | undefined; filter?: SQL | undefined };
export type Enlisted = { wave: number; devices: number };

/**
 * Enlists the devices of a rollout, each in its wave: the first one whose filter it matches, else by count and percent of
 * all targets along a stable hash of device and rollout, so never in the order of creation. The last wave takes the rest.
 * In one statement inside the server. Repeating it adds nothing.
 */
export async function enlistTargets(
  db: Db,
  { rolloutId, targets, waves }: { rolloutId: string; targets: SQL; waves: WaveRule[] },
): Promise<Enlisted[]> {
  const chosen = waves.flatMap(({ filter }, index) => (filter ? [sql`when ${filter} then ${index + 1}::int`] : []));
  const byFilter = chosen.length > 0 ? sql`case ${sql.join(chosen, sql` `)} end` : sql`null::int`;
  return db.execute<Enlisted>(sql`
    with targets as (
      select devices.id, hashtextextended(devices.id::text, hashtextextended(${rolloutId}::text, 0)) as place,
        ${byFilter} as chosen
      from devices where ${targets}
    ), placed as (
      select id, place, chosen, count(*) over () as total, row_number() over (partition by chosen is null order by place) as turn
      from targets
    ), enlisted as (
      insert into rollout_targets (rollout_id, device_id, wave, place, state)
      select ${rolloutId}::uuid, id, coalesce(chosen, ${byTurn(waves)}), place, 'SCHEDULED' from placed
      on conflict do nothing
      returning wave
    )
    select wave, count(*)::int as devices from enlisted group by wave`);
}

/** The wave of a device's turn among those that no filter chose. */
function byTurn(waves: WaveRule[]): SQL {
  let bound = sql`0`;
  const cases: SQL[] = [];
  for (const [index, { count, percent }] of waves.slice(0, -1).entries()) {
    if (count === undefined && percent === undefined) continue;
    const share = count === undefined ? sql`ceil(total * ${percent}::numeric / 100)` : sql`${count}::int`;
    bound = sql`${bound} + ${share}`;
    cases.push(sql`when turn <= ${bound} then ${index + 1}::int`);
  }
  const last = sql`${waves.length}::int`;
  return cases.length > 0 ? sql`case ${sql.join(cases, sql` `)} else ${last} end` : last;
}

/** Adds devices that came to match since: to that wave, at its end. */
export async function enlistNewcomers(
  db: Db,
  { rolloutId, targets, wave }: { rolloutId: string; targets: SQL; wave: number },
): Promise<number> {
  const rows = await db.execute<{ count: number }>(sql`
    with enlisted as (
      insert into rollout_targets (rollout_id, device_id, wave, place, state)
      select ${rolloutId}::uuid, devices.id, ${wave}::int, 9223372036854775807, 'SCHEDULED' from devices
      where ${targets} and not exists (
        select from rollout_targets t where t.rollout_id = ${rolloutId}::uuid and t.device_id = devices.id)
      on conflict do nothing
      returning device_id
    )
    select count(*)::int as count from enlisted`);
  return rows[0]?.count ?? 0;
}
