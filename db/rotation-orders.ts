import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { endingExecutions, isHead, noticing } from './execution-endings.ts';
import { executePrepared } from './prepared.ts';

/**
 * The order as every Jobs client reads it. The certificate is named so that a device that has replaced it already, and
 * finds the order late, sees that it is not meant any more.
 */
const documentOf = sql`jsonb_build_object('operation', 'rotate-certificate', 'certificateId', r.certificate_id)::text`;

/** Behind every update: an agent that does not know this operation must not hold back what it does know. */
const priority = -1;
/** A device that has begun, and says nothing for a day, gives way to other work. */
const endWithinSeconds = 86_400;

/**
 * Gives the device its order: a job of its own whose id is the rotation's, with its execution, notice and event. Doing it
 * again changes nothing. The device is returned when it is to be told.
 */
export async function orderRotation(db: Db, rotationId: string): Promise<void> {
  await executePrepared(
    db,
    sql`
    with ordered as (
      update rotations set state = 'ORDERED' where id = ${rotationId}::uuid and state = 'BEGUN'
        and reason not in ('renewal', 'recovery')
      returning *
    ), job as (
      insert into jobs (id, document, end_within_seconds) select r.id, ${documentOf}, ${endWithinSeconds}::int from ordered r
    ), queued as (
      insert into executions (job_id, device_id, attempt, status, priority)
      select id, device_id, 1, 'QUEUED', ${priority}::smallint from ordered
      returning job_id, device_id, attempt, status, priority, queued_at
    ), noticed as (${noticing(sql`(select q.device_id, ${isHead(sql`q`)} as head from queued q) as changed`)})
    insert into events (id, kind, device_id, data)
    select uuid_now(), 'execution.queued', device_id, jsonb_build_object('jobId', job_id, 'attempt', attempt) from queued`,
  );
}

/** How the order stands; undefined when there was none. */
export async function findOrder(db: Db, rotationId: string): Promise<{ status: string; isOpen: boolean } | undefined> {
  const [row] = await executePrepared<{ status: string; isOpen: boolean }>(
    db,
    sql`
    select e.status, e.ended_at is null as "isOpen" from rotations r
    join executions e on e.job_id = r.id and e.device_id = r.device_id and e.attempt = 1
    where r.id = ${rotationId}::uuid`,
  );
  return row;
}

/** Ends the order by the service, unless the device has ended it before. */
export async function endOrder(
  db: Db,
  {
    rotationId,
    status,
    reason,
  }: { rotationId: string; status: 'SUCCEEDED' | 'TIMED_OUT' | 'CANCELED'; reason: string },
): Promise<void> {
  await executePrepared(
    db,
    sql`
    with ending as (
      select e.job_id, e.device_id, e.attempt, ${status}::text as status, ${reason}::text as reason,
        ${isHead(sql`e`)} as head
      from rotations r join executions e on e.job_id = r.id and e.device_id = r.device_id and e.attempt = 1
      where r.id = ${rotationId}::uuid and e.ended_at is null
      for update of e
    ), ${endingExecutions({ rollout: sql`null::text`, at: sql`now()` })}
    select count(*)::int as count from ended`,
  );
}

/**
 * Ends orders that a device has begun and not finished within their time, and wakes their lifecycles, so that other work
 * goes on. Gives how many.
 */
export async function endStalledOrders(db: Db, poke: { workflowIdPrefix: string; signal: string }): Promise<number> {
  const [row] = await executePrepared<{ count: number }>(
    db,
    sql`
    with ending as (
      select e.job_id, e.device_id, e.attempt, 'TIMED_OUT'::text as status, 'it took too long'::text as reason,
        ${isHead(sql`e`)} as head
      from rotations r join executions e on e.job_id = r.id and e.device_id = r.device_id and e.attempt = 1
      where r.finished_at is null and r.state in ('ORDERED', 'ISSUED') and e.ended_at is null and e.due_at <= now()
      order by e.job_id for update of e
    ), ${endingExecutions({ rollout: sql`null::text`, at: sql`now()` })}, poked as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'signal', workflow_id, ${poke.signal}::text, '{}'
      from (select ${poke.workflowIdPrefix}::text || d.name as workflow_id
        from ended n join rotations r on r.id = n.job_id and r.state = 'ORDERED' join devices d on d.id = r.device_id) p
    )
    select count(*)::int as count from ended`,
  );
  return row?.count ?? 0;
}
