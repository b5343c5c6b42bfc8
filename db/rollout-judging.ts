import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { endingExecutions, isHead } from './execution-endings.ts';
import { executionOf } from './executions.ts';
import { executePrepared } from './prepared.ts';
import type { Verdict } from './rollout-schema.ts';

type Review = { rolloutId: string; at: Date };

/**
 * Ends the executions of a rollout whose time is over (not started, step, or whole) as TIMED_OUT, and those of devices that
 * are blocked or gone as REMOVED. Returns how many there were.
 */
export async function expireExecutions(db: Db, { rolloutId, at }: Review): Promise<number> {
  const now = sql`${at.toISOString()}::timestamptz`;
  const isOver = sql`e.ended_at is null and (e.due_at <= ${now} or e.step_due_at <= ${now} or t.gone)`;
  const [row] = await executePrepared<{ count: number }>(
    db,
    sql`
    with ending as (
      select e.job_id, e.device_id, e.attempt, case when t.gone then 'REMOVED' else 'TIMED_OUT' end as status,
        case when t.gone then 'the device is blocked or gone' when e.status = 'QUEUED' then 'not started in time'
          when e.step_due_at <= ${now} then 'a step took too long' else 'took too long' end as reason,
        ${isHead(sql`e`)} as head
      from (
        select t.job_id, t.device_id, t.attempt, d.id is null as gone
        from rollout_targets t left join devices d on d.id = t.device_id and d.state <> 'BLOCKED'
        where t.rollout_id = ${rolloutId}::uuid and t.state = 'IN_FLIGHT'
        order by t.job_id, t.device_id
      ) t cross join ${executionOf(sql`t`, isOver, sql`for update`)}
    ), ${endingExecutions({ rollout: sql`${rolloutId}::text`, at: now })}
    select count(*)::int as count from ended`,
  );
  return row?.count ?? 0;
}

export type JudgeOptions = Review & {
  /** Of a release: what a device must report, forward, and how long it may take after it said SUCCEEDED. */
  release: { product: string; version: string } | undefined;
  verifyWithinSeconds: number;
  retries: { max: number; backoffSeconds: number; kinds: string[] };
};

export type Judged = {
  wave: number;
  direction: 'FORWARD' | 'BACK';
  verdict: Verdict;
  devices: number;
  /** Those that do not know it yet: their execution was ended by us. */
  unaware: string[];
};

/**
 * Gives every device whose execution has ended its verdict, or another attempt later. One that said SUCCEEDED has
 * succeeded when it reports the version that it was to run, and has REVERTED when it does not in time: the word of a
 * device that still runs the old image counts for nothing. Pauses between attempts double.
 */
export async function judgeTargets(db: Db, options: JudgeOptions): Promise<Judged[]> {
  const { rolloutId, at, release, verifyWithinSeconds, retries } = options;
  return executePrepared<Judged>(
    db,
    sql`
    with ended as materialized (
      select t.rollout_id, t.device_id, t.wave, t.direction, t.attempt, e.status, e.ended_at, s.version as runs,
        case t.direction when 'BACK' then t.previous_version else ${release?.version ?? null}::text end as wanted,
        nullif(concat_ws(': ', e.details ->> 'reason', e.details ->> 'message'), '') as said
      from rollout_targets t
      cross join ${executionOf(sql`t`, sql`e.ended_at is not null`)}
      left join device_software s on s.device_id = t.device_id and s.product = ${release?.product ?? ''}::text
      where t.rollout_id = ${rolloutId}::uuid and t.state = 'IN_FLIGHT'
      order by t.device_id for update of t
    ), checked as (
      select *, status = 'SUCCEEDED' and wanted is not null and runs is distinct from wanted as unproven from ended
    ), judged as (
      select *, case
          when unproven and ended_at + make_interval(secs => ${verifyWithinSeconds}::int) > ${at.toISOString()}::timestamptz then 'WAIT'
          when unproven then 'REVERTED'
          when status = any (${sql.param(retries.kinds)}::text[]) and attempt <= ${retries.max}::int then 'RETRY'
          else status
        end as verdict
      from checked
    ), again as (
      update rollout_targets t
      set state = 'RETRYING',
        retry_at = ${at.toISOString()}::timestamptz + make_interval(secs => ${retries.backoffSeconds}::int * power(2, j.attempt - 1)::int)
      from judged j where j.verdict = 'RETRY' and t.rollout_id = j.rollout_id and t.device_id = j.device_id
    ), done as (
      update rollout_targets t
      set state = 'DONE', judged_at = ${at.toISOString()}::timestamptz,
        reason = left(case when j.verdict = 'REVERTED' then
            format('it said SUCCEEDED and reports %s where %s was to run', coalesce(j.runs, 'no version'), j.wanted)
          else j.said end, 1024),
        verdict = case t.direction when 'FORWARD' then j.verdict else t.verdict end,
        undo_verdict = case when t.direction = 'BACK' then case j.verdict when 'SUCCEEDED' then 'UNDONE' else j.verdict end end
      from judged j
      where j.verdict not in ('WAIT', 'RETRY') and t.rollout_id = j.rollout_id and t.device_id = j.device_id
    )
    select wave, direction, verdict, count(*)::int as devices,
      coalesce(array_agg(device_id::text) filter (where status in ('CANCELED', 'REMOVED', 'TIMED_OUT')), '{}') as unaware
    from judged where verdict not in ('WAIT', 'RETRY') group by wave, direction, verdict`,
  );
}

export type SoakOptions = {
  rolloutId: string;
  wave: number;
  at: Date;
  release: { product: string; version: string } | undefined;
  /** At its end, who is not connected is SILENT. */
  over: boolean;
};

/**
 * Takes the SUCCEEDED away from devices of a soaking wave that report another version, or are not there at its end. One that was
 * decommissioned since has done its part.
 */
export async function judgeSoak(db: Db, { rolloutId, wave, at, release, over }: SoakOptions): Promise<Judged[]> {
  return executePrepared<Judged>(
    db,
    sql`
    with failed as materialized (
      select t.rollout_id, t.device_id, t.wave,
        case when ${release !== undefined}::boolean and s.version is distinct from ${release?.version ?? null}::text
          then 'REVERTED' else 'SILENT' end as verdict, s.version as runs
      from rollout_targets t
      left join device_software s on s.device_id = t.device_id and s.product = ${release?.product ?? ''}::text
      left join presence p on p.device_id = t.device_id
      where t.rollout_id = ${rolloutId}::uuid and t.wave = ${wave}::int and t.verdict = 'SUCCEEDED'
        and t.direction = 'FORWARD'
        and not exists (select from devices d where d.id = t.device_id and d.decommissioned_at is not null)
        and ((${release !== undefined}::boolean and s.version is distinct from ${release?.version ?? null}::text)
          or (${over}::boolean and not coalesce(p.connected, false)))
      order by t.device_id for update of t
    ), taken as (
      update rollout_targets t set verdict = f.verdict, judged_at = ${at.toISOString()}::timestamptz,
        reason = case f.verdict when 'SILENT' then 'it was not connected at the end of the soak'
          else format('it went back to %s during the soak', coalesce(f.runs, 'an unknown version')) end
      from failed f where t.rollout_id = f.rollout_id and t.device_id = f.device_id
    )
    select wave, 'FORWARD' as direction, verdict, count(*)::int as devices, array[]::text[] as unaware
    from failed group by wave, verdict`,
  );
}
