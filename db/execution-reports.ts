import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { noticing, rankOf } from './execution-endings.ts';
import { executionColumns, type Execution } from './executions.ts';
import { executePrepared } from './prepared.ts';

/** What a device says of an execution. Its ids are made by the process, so that a repeated statement repeats them. */
export type ExecutionReport = {
  deviceId: string;
  /** Null for whatever the device has to do next, which it starts. */
  jobId: string | null;
  /** Null for the last one. */
  attempt: number | null;
  status: 'IN_PROGRESS' | 'SUCCEEDED' | 'FAILED' | 'REJECTED';
  /** Null keeps those that there are. */
  details: Record<string, string> | null;
  /** The version that the device takes for the current one. */
  expectedVersion: number | null;
  /** When the step must have ended; -1 takes that timer away, null leaves it as it is. */
  stepMinutes: number | null;
  /** Hex: what tells the request from others. The same again is the same request. */
  request: string;
  eventId: string;
};

/**
 * `recorded`, `repeated` (the request that made this version, once more) and `started` (start next, of one in progress)
 * are accepted. `none`: nothing is pending. `unknown`: the device has no such execution. `ended`, `version` and `busy`
 * (too many are in progress already) are refused. `missed`: it ended this very moment, and must be judged anew.
 */
export type ExecutionVerdict =
  | 'recorded'
  | 'repeated'
  | 'started'
  | 'none'
  | 'unknown'
  | 'ended'
  | 'version'
  | 'busy'
  | 'missed';

export type JudgedReport = {
  verdict: ExecutionVerdict;
  /** As it stands now; undefined for `none` and `unknown`. */
  execution: Execution | undefined;
  /** What the device has to do has changed, and it is to be told. */
  noticed: boolean;
};

export type RecordOptions = {
  /** Whom to tell: the workflow whose id is this prefix and the rollout's id, by this signal. */
  poke: { workflowIdPrefix: string; signal: string };
  /** Whom to tell of an order to rotate that a device has ended without asking for a certificate: by its name. */
  rotationPoke: { workflowIdPrefix: string; signal: string };
  /** Executions that a device may have in progress at a time. */
  inProgressMax: number;
};

/**
 * Judges and records what devices said, at most one report of each device, in one statement: the executions with their
 * versions and timers, events, notices to devices whose list has changed, and a poke to each rollout of which an execution
 * has ended, or will time out sooner than it would have. All that is pending of these devices is locked first, in the
 * order of its key. Sending it twice changes nothing more.
 */
export async function recordExecutionReports(
  db: Db,
  reports: ExecutionReport[],
  { poke, rotationPoke, inProgressMax }: RecordOptions,
): Promise<JudgedReport[]> {
  const rows = await executePrepared<Omit<JudgedReport, 'execution'> & Execution & { place: number }>(
    db,
    sql`
    with input as materialized (
      select * from json_to_recordset(${JSON.stringify(reports.map(toInput))}::text::json) as i (place int, device_id uuid,
        job_id uuid, attempt bigint, status text, details jsonb, version bigint, step int, request text, event_id uuid)
    ), pending as materialized (
      select e.* from executions e
      where e.ended_at is null and e.device_id = any (array(select device_id from input))
      order by e.job_id, e.device_id for update
    ), ranked as (
      select p.*, i.place, i.job_id as asked, i.attempt as asked_attempt, i.status as said, i.details as given,
        i.version as expected, i.step, i.request, i.event_id, row_number() over listed as rank,
        first_value(p.job_id) over listed as head,
        count(*) filter (where p.status = 'IN_PROGRESS') over (partition by p.device_id) as running
      from pending p join input i using (device_id)
      window listed as (partition by p.device_id order by ${rankOf(sql`p`)})
    ), open as (
      select r.*, case
          when not case when r.asked is null then r.rank = 1
            else r.job_id = r.asked and r.attempt = coalesce(r.asked_attempt, r.attempt) end then null
          when r.asked is null and r.status = 'IN_PROGRESS' then 'started'
          when r.last_request = decode(r.request, 'hex') and r.status = r.said then 'repeated'
          when r.expected <> r.version then 'version'
          when r.said = 'IN_PROGRESS' and r.status = 'QUEUED' and r.running >= ${inProgressMax}::int then 'busy'
          else 'recorded'
        end as verdict
      from ranked r
    ), settled as materialized (
      select o.*, first_value(case when not o.ends then o.job_id end) over
        (partition by o.device_id order by o.ends, ${rankOf(sql`o`, sql`o.becomes`)}) as next_head
      from (
        select *, verdict is not distinct from 'recorded' and said <> 'IN_PROGRESS' as ends,
          case when verdict = 'recorded' then said else status end as becomes
        from open
      ) o
    ), job as materialized (
      select id, rollout_id, end_within_seconds from jobs where id = any (array(select distinct job_id from settled))
    ), recorded as materialized (
      select s.*, s.next_head is distinct from s.head as moves, j.rollout_id,
        case when s.status = 'QUEUED' then now() + make_interval(secs => j.end_within_seconds) else s.due_at end as next_due_at,
        case when s.step > 0 then now() + make_interval(mins => s.step)
          when s.step is null then s.step_due_at end as next_step_due_at
      from settled s left join job j on j.id = s.job_id
      where s.verdict = 'recorded'
    ), updated as (
      update executions e
      set status = r.said, details = coalesce(r.given, e.details), version = e.version + 1,
        last_request = decode(r.request, 'hex'), updated_at = now(),
        started_at = case when r.ends then e.started_at else coalesce(e.started_at, now()) end,
        ended_at = case when r.ends then now() end,
        due_at = case when not r.ends then r.next_due_at end,
        step_due_at = case when not r.ends then r.next_step_due_at end
      from recorded r
      where e.job_id = r.job_id and e.device_id = r.device_id and e.attempt = r.attempt
      returning r.place, r.ends or r.moves as noticed, e.*
    ), noticed as (${noticing(sql`(select device_id, ends, moves as head from recorded where ends or moves) as c`, sql`ends`)}
    ), announced as (
      insert into events (id, kind, device_id, subject, data)
      select event_id, 'execution.' || replace(lower(said), '_', '-'), device_id, 'rollout/' || rollout_id,
        jsonb_strip_nulls(jsonb_build_object('rolloutId', rollout_id, 'jobId', job_id, 'attempt', attempt,
          'phase', coalesce(given, details) -> 'phase'))
      from recorded
      where said <> status or coalesce(given, details) -> 'phase' is distinct from details -> 'phase'
      on conflict do nothing
    ), poked as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'signal', workflow_id, ${poke.signal}::text, '{}'::jsonb from (
        select distinct ${poke.workflowIdPrefix}::text || rollout_id as workflow_id from recorded
        where rollout_id is not null and (ends or coalesce(least(next_due_at, next_step_due_at), 'infinity')
          < coalesce(least(due_at, step_due_at), 'infinity'))
      ) stirred
      union all
      select outbox_shard(workflow_id), 'signal', workflow_id, ${rotationPoke.signal}::text, '{}'::jsonb from (
        select ${rotationPoke.workflowIdPrefix}::text || d.name as workflow_id
        from recorded e join rotations o on o.id = e.job_id and o.state = 'ORDERED' join devices d on d.id = o.device_id
        where e.rollout_id is null and e.ends
      ) declined
    ), others as (
      select distinct on (i.place) i.place, e.*, case
          when e.job_id is null then case when i.job_id is null then 'none' else 'unknown' end
          when e.ended_at is null then 'missed'
          when e.status = i.status and (e.last_request = decode(i.request, 'hex')
            -- the proof has ended the order; an agent that says so a moment later is right
            or exists (select from rotations o where o.id = e.job_id and e.status = 'SUCCEEDED')) then 'repeated'
          else 'ended'
        end as verdict
      from input i left join executions e
        on e.job_id = i.job_id and e.device_id = i.device_id and e.attempt = coalesce(i.attempt, e.attempt)
      where i.place not in (select place from settled where verdict is not null)
      order by i.place, e.attempt desc
    )
    select e.place, 'recorded' as verdict, ${executionColumns}, e.noticed from updated e
    union all
    select e.place, e.verdict, ${executionColumns}, false from settled e where e.verdict <> 'recorded'
    union all
    select e.place, e.verdict, ${executionColumns}, false from others e`,
  );
  return toVerdicts(rows);
}

/** What is null is left out: there is less to read. */
const toInput = (report: ExecutionReport, place: number) => ({
  place,
  device_id: report.deviceId,
  job_id: report.jobId ?? undefined,
  attempt: report.attempt ?? undefined,
  status: report.status,
  details: report.details ?? undefined,
  version: report.expectedVersion ?? undefined,
  step: report.stepMinutes ?? undefined,
  request: report.request,
  event_id: report.eventId,
});

function toVerdicts(rows: (Omit<JudgedReport, 'execution'> & Execution & { place: number })[]): JudgedReport[] {
  const verdicts: JudgedReport[] = [];
  for (const { place, verdict, noticed, ...execution } of rows) {
    const exists = verdict !== 'none' && verdict !== 'unknown';
    verdicts[place] = { verdict, noticed, execution: exists ? execution : undefined };
  }
  return verdicts;
}
