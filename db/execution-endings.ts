import { sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';

/**
 * The order in which a device is given its executions, smaller first: the one in progress, then by priority, then by the
 * time it was queued. Where one is about to change, `status` says what to.
 */
export const rankOf = (alias: SQL, status = sql`${alias}.status`) =>
  sql`(${status} <> 'IN_PROGRESS', -${alias}.priority, ${alias}.queued_at, ${alias}.job_id)`;

/** Whether an execution is the first that its device is given. */
export const isHead = (alias: SQL) => sql`not exists (
  select from executions p where p.device_id = ${alias}.device_id and p.ended_at is null
    and (p.job_id, p.attempt) <> (${alias}.job_id, ${alias}.attempt) and ${rankOf(sql`p`)} < ${rankOf(alias)})`;

/**
 * The part of a statement that notes for devices that their list has changed, from a relation with `device_id` and
 * `head`; `list` says where nothing came and nothing went. Rows are taken in the order of their key.
 */
export const noticing = (changed: SQL, list = sql`true`) => sql`
  insert into job_notices (device_id, list, head)
  select device_id, bool_or(${list}), bool_or(head) from ${changed} group by device_id order by device_id
  on conflict (device_id) do update
  set change = excluded.change, list = job_notices.list or excluded.list, head = job_notices.head or excluded.head,
    attempts = 0, next_attempt_at = now()`;

/**
 * The parts of a statement by which the service ends executions, from a relation `ending` (job_id, device_id, attempt,
 * status, reason, head) whose rows are locked: each with its notice and its event. `ended` has what it did. `rollout` is the
 * id of their rollout, over `ending` as `n`.
 */
export const endingExecutions = ({ rollout, at }: { rollout: SQL; at: SQL }) => sql`
  ended as (
    update executions e
    set status = n.status, version = e.version + 1, updated_at = ${at}, ended_at = ${at},
      due_at = null, step_due_at = null, last_request = null
    from ending n
    where e.job_id = n.job_id and e.device_id = n.device_id and e.attempt = n.attempt
    returning e.job_id, e.device_id, e.attempt, e.status
  ), noticed as (${noticing(sql`ending`)}
  ), announced as (
    insert into events (id, kind, device_id, subject, data)
    select uuid_now(), 'execution.' || replace(lower(n.status), '_', '-'), n.device_id, 'rollout/' || ${rollout},
      jsonb_build_object('rolloutId', ${rollout}, 'jobId', n.job_id, 'attempt', n.attempt, 'reason', n.reason)
    from ending n
  )`;

/**
 * Ends everything that the device still has to do as REMOVED, and pokes its rollouts, which give it that verdict. Gives how
 * many there were; the second time there are none.
 */
export async function removeExecutions(
  db: Db,
  { deviceId, reason, poke }: { deviceId: string; reason: string; poke: { workflowIdPrefix: string; signal: string } },
): Promise<number> {
  const [row] = await executePrepared<{ count: number }>(
    db,
    sql`
    with ending as (
      select e.job_id, e.device_id, e.attempt, 'REMOVED'::text as status, ${reason}::text as reason, false as head,
        j.rollout_id
      from executions e join jobs j on j.id = e.job_id
      where e.device_id = ${deviceId}::uuid and e.ended_at is null
      order by e.job_id, e.device_id, e.attempt for update of e
    ), ${endingExecutions({ rollout: sql`n.rollout_id::text`, at: sql`now()` })}, poked as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'signal', workflow_id, ${poke.signal}::text, '{}'
      from (
        select distinct ${poke.workflowIdPrefix}::text || t.rollout_id as workflow_id
        from rollout_targets t join rollouts r on r.id = t.rollout_id
        where t.device_id = ${deviceId}::uuid and t.state <> 'DONE' and r.finished_at is null
      ) open
    )
    select count(*)::int as count from ended`,
  );
  return row?.count ?? 0;
}
