import { sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';
import { isHead, noticing } from './execution-endings.ts';
import { executePrepared } from './prepared.ts';
import type { RolloutRelease } from './rollouts.ts';

export type AdmitOptions = {
  rolloutId: string;
  /** The job of those that go forward; those that go back each have their own already. */
  jobId: string;
  at: Date;
  direction: 'FORWARD' | 'BACK';
  /** Forward, devices of the waves up to this one; back, of all. */
  wave: number;
  room: number;
  priority: number;
  startWithinSeconds: number;
  release: RolloutRelease | undefined;
  /** Devices whose attribute names one of these zones, or none that is known where `elsewhere`; undefined is everybody. */
  zones: { attribute: string; known: string[]; open: string[]; elsewhere: boolean } | undefined;
};

export type Admitted = { deviceId: string; wave: number; skipped: boolean };

/**
 * Tells the next devices, as many as there is room for: those whose pause before another attempt is over, then those
 * that were never told, in the order of their waves and places (going back, the last first). Each gets an
 * execution and a notice in this statement. A device that the job does not fit is SKIPPED, with the reason.
 */
export async function admitTargets(db: Db, options: AdmitOptions): Promise<Admitted[]> {
  const { rolloutId, jobId, at, direction, wave, room, priority, startWithinSeconds, release, zones } = options;
  const forward = direction === 'FORWARD';
  // As the index has them, from either end: to sort them, all that are still to be told would be read.
  const turnOf = (t: SQL) => (forward ? sql`${t}.wave, ${t}.place` : sql`${t}.wave desc, ${t}.place desc`);
  return executePrepared<Admitted>(
    db,
    sql`
    with again as materialized (
      select rollout_id, device_id, wave, place, 0 as turn from rollout_targets
      where rollout_id = ${rolloutId}::uuid and state = 'RETRYING' and direction = ${direction}::text
        and retry_at <= ${at.toISOString()}::timestamptz
      order by retry_at limit ${room}::int
    ), fresh as materialized (
      select t.rollout_id, t.device_id, t.wave, t.place, 1 as turn from rollout_targets t
      where t.rollout_id = ${rolloutId}::uuid and t.state = 'SCHEDULED' and t.direction = ${direction}::text
        and t.wave <= ${wave}::int
        and (${zones === undefined}::boolean or exists (
          select from devices d where d.id = t.device_id and case
            when d.attributes ->> ${zones?.attribute ?? ''}::text = any (${sql.param(zones?.known ?? [])}::text[])
            then d.attributes ->> ${zones?.attribute ?? ''}::text = any (${sql.param(zones?.open ?? [])}::text[])
            else ${zones?.elsewhere ?? true}::boolean end))
      order by ${turnOf(sql`t`)} limit ${room}::int
    ), picked as materialized (
      select t.rollout_id, t.device_id, t.wave, t.job_id, t.attempt
      from rollout_targets t
      join (select * from (select * from again union all select * from fresh) next
        order by turn, ${turnOf(sql`next`)} limit ${room}::int) p using (rollout_id, device_id)
      order by t.device_id for update of t
    ), facts as materialized (
      select p.*, s.version as runs, case
          when d.id is null then 'the device is gone'
          when d.state = 'BLOCKED' then 'the device is blocked'
          when not ${forward && release !== undefined}::boolean then null
          when s.version = ${release?.version ?? ''}::text then format('it runs %s already', s.version)
          when not coalesce(d.attributes ->> 'hardware' = any (${sql.param(release?.hardware ?? [])}::text[]), false)
            then format('its hardware %s is none of the manifest''s', coalesce(d.attributes ->> 'hardware', '(not known)'))
          when ${release?.allowedFrom != null}::boolean
            and not coalesce(s.version = any (${sql.param(release?.allowedFrom ?? [])}::text[]), false)
            then format('the manifest does not allow it from %s', coalesce(s.version, 'an unknown version'))
          when not ${release?.downgrade ?? false}::boolean and r.security_counter > ${release?.securityCounter ?? 0}::bigint
            then format('its security counter is %s already', r.security_counter)
        end as misfit
      from picked p
      left join devices d on d.id = p.device_id
      left join device_software s on s.device_id = p.device_id and s.product = ${release?.product ?? ''}::text
      left join releases r on r.product = s.product and r.version = s.version and r.revoked_at is null
    ), skipped as (
      update rollout_targets t set state = 'DONE', reason = f.misfit, judged_at = ${at.toISOString()}::timestamptz,
        verdict = case when ${forward}::boolean then 'SKIPPED' else t.verdict end,
        undo_verdict = case when ${forward}::boolean then t.undo_verdict else 'CANNOT_UNDO' end
      from facts f where f.misfit is not null and t.rollout_id = f.rollout_id and t.device_id = f.device_id
    ), told as (
      update rollout_targets t
      set state = 'IN_FLIGHT', attempt = t.attempt + 1, told_at = ${at.toISOString()}::timestamptz, retry_at = null,
        job_id = case when ${forward}::boolean then ${jobId}::uuid else t.job_id end,
        previous_version = case when ${forward}::boolean then f.runs else t.previous_version end
      from facts f where f.misfit is null and t.rollout_id = f.rollout_id and t.device_id = f.device_id
      returning t.job_id, t.device_id, t.attempt
    ), queued as (
      insert into executions (job_id, device_id, attempt, status, priority, queued_at, updated_at, due_at)
      select job_id, device_id, attempt, 'QUEUED', ${priority}::smallint, ${at.toISOString()}::timestamptz, ${at.toISOString()}::timestamptz,
        ${at.toISOString()}::timestamptz + make_interval(secs => ${startWithinSeconds}::int)
      from told order by job_id, device_id
      returning job_id, device_id, attempt, status, priority, queued_at
    ), noticed as (${noticing(sql`(select q.device_id, ${isHead(sql`q`)} as head from queued q) as changed`)}
    ), announced as (
      insert into events (id, kind, device_id, subject, data)
      select uuid_now(), 'execution.queued', device_id, 'rollout/' || ${rolloutId}::text,
        jsonb_build_object('rolloutId', ${rolloutId}::text, 'jobId', job_id, 'attempt', attempt)
      from queued
    )
    select device_id as "deviceId", wave, misfit is not null as skipped from facts`,
  );
}

/** The zones that devices still to be told name in that attribute. */
export async function listZones(db: Db, rolloutId: string, attribute: string): Promise<string[]> {
  const rows = await db.execute<{ zone: string }>(sql`
    select distinct d.attributes ->> ${attribute}::text as zone
    from rollout_targets t join devices d on d.id = t.device_id
    where t.rollout_id = ${rolloutId}::uuid and t.state in ('SCHEDULED', 'RETRYING') and d.attributes ? ${attribute}::text`);
  return rows.map(({ zone }) => zone);
}
