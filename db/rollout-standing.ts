import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executionOf } from './executions.ts';
import { executePrepared } from './prepared.ts';

export type Part = { direction: 'FORWARD' | 'BACK'; inFlight: number; retrying: number };

/** What is under way of a rollout, and when the next of it is over by itself, after `at`. */
export type UnderWay = { parts: Part[]; dueAt: Date | undefined };

/** Reads the devices that are in flight or wait for another attempt: few, whatever the rollout's size. */
export async function measureUnderWay(
  db: Db,
  { rolloutId, at, verifyWithinSeconds }: { rolloutId: string; at: Date; verifyWithinSeconds: number },
): Promise<UnderWay> {
  const rows = await executePrepared<Part & { dueMs: number | null }>(
    db,
    sql`
    select direction, count(*) filter (where state = 'IN_FLIGHT')::int as "inFlight",
      count(*) filter (where state = 'RETRYING')::int as retrying,
      (extract(epoch from min(due_at) filter (where due_at > ${at.toISOString()}::timestamptz)) * 1000)::float8 as "dueMs"
    from (
      select t.direction, t.state, case when t.state = 'RETRYING' then t.retry_at
          when e.ended_at is not null then e.ended_at + make_interval(secs => ${verifyWithinSeconds}::int)
          else least(e.due_at, e.step_due_at) end as due_at
      from rollout_targets t
      left join ${executionOf(sql`t`, sql`t.state = 'IN_FLIGHT'`)} on true
      where t.rollout_id = ${rolloutId}::uuid and t.state in ('IN_FLIGHT', 'RETRYING')
    ) under_way
    group by direction`,
  );
  const due = rows.flatMap(({ dueMs }) => dueMs ?? []);
  return {
    parts: rows.map(({ direction, inFlight, retrying }) => ({ direction, inFlight, retrying })),
    dueAt: due.length > 0 ? new Date(Math.min(...due)) : undefined,
  };
}
