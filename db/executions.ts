import { sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';
import { rankOf } from './execution-endings.ts';
import { executePrepared } from './prepared.ts';
import type { ExecutionStatus } from './rollout-schema.ts';

/** An execution as its device is told of it. Times are whole seconds since 1970. */
export type Execution = {
  deviceId: string;
  jobId: string;
  attempt: number;
  status: ExecutionStatus;
  details: Record<string, string>;
  version: number;
  queuedAt: number;
  startedAt: number | null;
  updatedAt: number;
  /** Until the first of its timers ends it; null while it is not in progress, or may take for ever. */
  secondsLeft: number | null;
};

const secondsOf = (instant: SQL) => sql`floor(extract(epoch from ${instant}))::float8`;

/** The columns of an `Execution`, from a relation `e` that has those of the table. */
export const executionColumns = sql`e.device_id as "deviceId", e.job_id as "jobId", e.attempt, e.status, e.details,
  e.version, ${secondsOf(sql`e.queued_at`)} as "queuedAt", ${secondsOf(sql`e.started_at`)} as "startedAt",
  ${secondsOf(sql`e.updated_at`)} as "updatedAt",
  case when e.status = 'IN_PROGRESS' and (e.due_at is not null or e.step_due_at is not null) then
    greatest(0, ${secondsOf(sql`least(e.due_at, e.step_due_at) - now()`)}) end as "secondsLeft"`;

/** What these devices have to do, each in the order in which it is given it: at most so many of each device. */
export async function listPendingExecutions(
  db: Db,
  deviceIds: string[],
  { perDevice }: { perDevice: number },
): Promise<Map<string, Execution[]>> {
  const rows = await executePrepared<Execution>(
    db,
    sql`
    select ${executionColumns} from (
      select p.*, row_number() over (partition by p.device_id order by ${rankOf(sql`p`)}) as place
      from executions p
      where p.ended_at is null and p.device_id = any (${sql.param(deviceIds)}::uuid[])
    ) e
    where e.place <= ${perDevice}::int
    order by e.device_id, e.place`,
  );
  return Map.groupBy(rows, ({ deviceId }) => deviceId);
}

/*
 * Statements about a rollout that is new to the planner: it expects one row of what it has never analysed. So rows are
 * joined by their whole key, and never by a rollout's or a job's id that stands in the statement: such a plan reads all of
 * a rollout for each of its devices.
 */

/**
 * The execution that a rollout's target is in flight with, found by its whole key. The planner is left no choice: of a job
 * that was never analysed it expects one row, and would read all of its executions for each device.
 */
export const executionOf = (target: SQL, where = sql`true`, locking = sql``) => sql`lateral (
  select * from executions e
  where e.job_id = ${target}.job_id and e.device_id = ${target}.device_id and e.attempt = ${target}.attempt and ${where}
  offset 0 ${locking}) e`;

/** A device's execution of a job: that attempt, or the last one. */
export type NamedExecution = { deviceId: string; jobId: string; attempt: number | null };

/** The executions of these names, in their order; undefined where there is none. */
export async function findExecutions(db: Db, named: NamedExecution[]): Promise<(Execution | undefined)[]> {
  const rows = await executePrepared<Execution & { place: number }>(
    db,
    sql`
    select distinct on (n.place) n.place::int, ${executionColumns}
    from unnest(${sql.param(named.map(({ deviceId }) => deviceId))}::uuid[],
      ${sql.param(named.map(({ jobId }) => jobId))}::uuid[],
      ${sql.param(named.map(({ attempt }) => attempt))}::bigint[]) with ordinality
      as n (device_id, job_id, attempt, place)
    join executions e on e.job_id = n.job_id and e.device_id = n.device_id and e.attempt = coalesce(n.attempt, e.attempt)
    order by n.place, e.attempt desc`,
  );
  const found = new Map(rows.map(({ place, ...execution }) => [place, execution]));
  return named.map((_, index) => found.get(index + 1));
}
