import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { endingExecutions, isHead } from './execution-endings.ts';
import { executionOf } from './executions.ts';
import { executePrepared } from './prepared.ts';

/** Cancels the rollout's executions that stand at one of these. Their devices are judged by the next review. */
export async function cancelExecutions(
  db: Db,
  { rolloutId, at, statuses }: { rolloutId: string; at: Date; statuses: string[] },
): Promise<number> {
  const [row] = await executePrepared<{ count: number }>(
    db,
    sql`
    with ending as (
      select e.job_id, e.device_id, e.attempt, 'CANCELED'::text as status, 'the rollout stops' as reason,
        ${isHead(sql`e`)} as head
      from (
        select job_id, device_id, attempt from rollout_targets
        where rollout_id = ${rolloutId}::uuid and state = 'IN_FLIGHT' and direction = 'FORWARD'
        order by job_id, device_id
      ) t cross join ${executionOf(sql`t`, sql`e.status = any (${sql.param(statuses)}::text[])`, sql`for update`)}
    ), ${endingExecutions({ rollout: sql`${rolloutId}::text`, at: sql`${at.toISOString()}::timestamptz` })}
    select count(*)::int as count from ended`,
  );
  return row?.count ?? 0;
}

export type Closed = { wave: number; devices: number };

/** Gives devices that were never told, or wait for another attempt, the verdict CANCELED: at most so many at a time. */
export async function closeScheduled(
  db: Db,
  { rolloutId, at, limit }: { rolloutId: string; at: Date; limit: number },
): Promise<Closed[]> {
  return executePrepared<Closed>(
    db,
    sql`
    with open as (
      select rollout_id, device_id from rollout_targets
      where rollout_id = ${rolloutId}::uuid and state in ('SCHEDULED', 'RETRYING') and direction = 'FORWARD'
      order by device_id limit ${limit}::int for update
    ), closed as (
      update rollout_targets t
      set state = 'DONE', verdict = 'CANCELED', reason = 'the rollout stopped first', judged_at = ${at.toISOString()}::timestamptz
      from open where t.rollout_id = open.rollout_id and t.device_id = open.device_id
      returning t.wave
    )
    select wave, count(*)::int as devices from closed group by wave`,
  );
}

/** The versions that devices of the rollout ran before, as far as they run its release now. */
export async function listPreviousVersions(
  db: Db,
  { rolloutId, release }: { rolloutId: string; release: { product: string; version: string } },
): Promise<string[]> {
  const rows = await db.execute<{ version: string }>(sql`
    select distinct t.previous_version as version
    from rollout_targets t
    join device_software s on s.device_id = t.device_id and s.product = ${release.product} and s.version = ${release.version}
    where t.rollout_id = ${rolloutId}::uuid and t.direction = 'FORWARD' and t.state = 'DONE'
      and t.previous_version is not null`);
  return rows.map(({ version }) => version);
}

/** Per wave: how many are to go back, and how many of them cannot. */
export type SentBack = { wave: number; devices: number; stuck: number };

/** A way back: the job for devices that ran that version before. */
export type WayBack = { version: string; jobId: string };

/**
 * Turns every device that runs the rollout's release around: to the job of the version it ran before, or to CANNOT_UNDO
 * when there is none. Verdicts of the way forward stay.
 */
export async function turnAround(
  db: Db,
  options: {
    rolloutId: string;
    at: Date;
    release: { product: string; version: string };
    ways: WayBack[];
    /** Version → why devices cannot go back to it. */
    blocked: Record<string, string>;
  },
): Promise<SentBack[]> {
  const { rolloutId, at, release, ways, blocked } = options;
  return db.execute<SentBack>(sql`
    with ways as (
      select * from unnest(${sql.param(ways.map(({ version }) => version))}::text[],
        ${sql.param(ways.map(({ jobId }) => jobId))}::uuid[]) as w (version, job_id)
    ), runs as (
      select t.rollout_id, t.device_id, t.wave, t.previous_version, w.job_id
      from rollout_targets t
      join device_software s on s.device_id = t.device_id and s.product = ${release.product} and s.version = ${release.version}
      left join ways w on w.version = t.previous_version
      where t.rollout_id = ${rolloutId}::uuid and t.direction = 'FORWARD' and t.state = 'DONE' and t.verdict <> 'SKIPPED'
      order by t.device_id for update of t
    ), turned as (
      update rollout_targets t
      set direction = 'BACK', job_id = r.job_id, attempt = 0,
        state = case when r.job_id is null then 'DONE' else 'SCHEDULED' end,
        undo_verdict = case when r.job_id is null then 'CANNOT_UNDO' end,
        reason = case when r.job_id is null then coalesce(
          ${JSON.stringify(blocked)}::jsonb ->> r.previous_version, 'nobody knows what it ran before') else t.reason end,
        judged_at = case when r.job_id is null then ${at.toISOString()}::timestamptz else t.judged_at end
      from runs r where t.rollout_id = r.rollout_id and t.device_id = r.device_id
    )
    select wave, count(*)::int as devices, (count(*) filter (where job_id is null))::int as stuck
    from runs group by wave`);
}

export type Stranded = {
  wave: number;
  devices: number;
  /** Those whose execution was taken back, and who do not know it yet. */
  unaware: string[];
};

/**
 * Ends the way back of devices whose old release was revoked since they were turned around, as CANNOT_UNDO: those that are
 * not told yet or wait for another attempt, and those whose execution stands at one of these statuses, which is canceled.
 */
export async function strandTargets(
  db: Db,
  { rolloutId, at, statuses }: { rolloutId: string; at: Date; statuses: string[] },
): Promise<Stranded[]> {
  return executePrepared<Stranded>(
    db,
    sql`
    with lost as materialized (
      select j.id, r.version from jobs j join releases r on r.id = j.release_id
      where j.rollout_id = ${rolloutId}::uuid and r.revoked_at is not null
    ), ending as (
      select e.job_id, e.device_id, e.attempt, 'CANCELED'::text as status, 'the release was revoked' as reason,
        ${isHead(sql`e`)} as head
      from (
        select job_id, device_id, attempt from rollout_targets
        where rollout_id = ${rolloutId}::uuid and state = 'IN_FLIGHT' and direction = 'BACK'
          and job_id = any (array(select id from lost))
        order by job_id, device_id
      ) t cross join ${executionOf(sql`t`, sql`e.status = any (${sql.param(statuses)}::text[])`, sql`for update`)}
    ), ${endingExecutions({ rollout: sql`${rolloutId}::text`, at: sql`${at.toISOString()}::timestamptz` })}, stranded as (
      update rollout_targets t
      set state = 'DONE', undo_verdict = 'CANNOT_UNDO', judged_at = ${at.toISOString()}::timestamptz,
        reason = format('it cannot go back to %s: that release was revoked', l.version)
      from lost l
      where t.rollout_id = ${rolloutId}::uuid and t.direction = 'BACK' and t.job_id = l.id
        and (t.state in ('SCHEDULED', 'RETRYING')
          or (t.state = 'IN_FLIGHT' and t.device_id = any (array(select device_id from ended))))
      returning t.wave, t.device_id
    )
    select wave, count(*)::int as devices,
      coalesce(array_agg(s.device_id::text) filter (where e.device_id is not null), '{}') as unaware
    from stranded s left join ended e on e.device_id = s.device_id
    group by wave`,
  );
}
