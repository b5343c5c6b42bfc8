import { randomUUIDv7 } from 'node:crypto';
import { and, asc, eq, sql } from 'drizzle-orm';
import type { Db } from '../../db/client.ts';
import { isHead, noticing } from '../../db/execution-endings.ts';
import { insertJobs } from '../../db/jobs.ts';
import { executions } from '../../db/rollout-schema.ts';

export type TestJob = { id: string; rolloutId: string };
export type JobOptions = { document?: string; rolloutId?: string; endWithinSeconds?: number; releaseId?: string };

export async function makeJob(db: Db, options: JobOptions = {}): Promise<TestJob> {
  const {
    document = '{"operation":"test"}',
    rolloutId = randomUUIDv7(),
    endWithinSeconds = null,
    releaseId = null,
  } = options;
  const id = randomUUIDv7();
  await insertJobs(db, [{ id, rolloutId, document, endWithinSeconds, releaseId }]);
  return { id, rolloutId };
}

/** Gives these devices the job to do, with their notices, as a rollout does. */
export async function queueJob(
  db: Db,
  { id }: TestJob,
  deviceIds: string[],
  { attempt = 1, priority = 0, startWithinSeconds = 86_400 } = {},
): Promise<void> {
  await db.execute(sql`
    with queued as (
      insert into executions (job_id, device_id, attempt, status, priority, queued_at, due_at)
      select ${id}::uuid, device_id, ${attempt}::int, 'QUEUED', ${priority}::smallint, clock_timestamp(),
        now() + make_interval(secs => ${startWithinSeconds}::int)
      from unnest(${sql.param(deviceIds)}::uuid[]) as d (device_id) order by device_id
      returning *
    )
    ${noticing(sql`(select q.device_id, ${isHead(sql`q`)} as head from queued q) as changed`)}`);
}

export type ExecutionRow = typeof executions.$inferSelect;

/** The device's executions of the job, by attempt. */
export async function executionsOf(db: Db, { id }: TestJob, deviceId: string): Promise<ExecutionRow[]> {
  return db
    .select()
    .from(executions)
    .where(and(eq(executions.jobId, id), eq(executions.deviceId, deviceId)))
    .orderBy(asc(executions.attempt));
}

/** The last of them. */
export async function executionOf(db: Db, job: TestJob, deviceId: string): Promise<ExecutionRow> {
  const last = (await executionsOf(db, job, deviceId)).at(-1);
  if (!last) throw new Error('there is no such execution');
  return last;
}
