import { and, asc, eq, gt, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { text, whole, word, type Fields, type Page } from './fields.ts';
import { executions, rolloutTargets } from './rollout-schema.ts';
import { devices } from './schema.ts';

const failures = ['FAILED', 'TIMED_OUT', 'REJECTED', 'CANCELED', 'REMOVED', 'REVERTED', 'SILENT'];
const statuses = ['QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED', 'REMOVED'];

/** What GET /rollouts/{id}/executions may be filtered by. */
export const targetFields: Fields = {
  device: text(devices.name, { fold: true }),
  wave: whole(rolloutTargets.wave),
  state: word(rolloutTargets.state, ['SCHEDULED', 'IN_FLIGHT', 'RETRYING', 'DONE']),
  verdict: word(rolloutTargets.verdict, ['SUCCEEDED', 'SKIPPED', ...failures]),
  undoVerdict: word(rolloutTargets.undoVerdict, ['UNDONE', 'CANNOT_UNDO', ...failures]),
};

export type TargetRow = Awaited<ReturnType<typeof listTargetsOf>>[number];

/** The devices of a rollout by their ids, each with its latest execution when it was told. */
export async function listTargetsOf(db: Db, rolloutId: string, { filter, after, limit }: Page<[deviceId: string]>) {
  const { jobId, deviceId, attempt } = rolloutTargets;
  const isLatest = and(eq(executions.jobId, jobId), eq(executions.deviceId, deviceId), eq(executions.attempt, attempt));
  return db
    .select({ device: devices.name, target: rolloutTargets, execution: executions })
    .from(rolloutTargets)
    .leftJoin(devices, eq(devices.id, deviceId))
    .leftJoin(executions, isLatest)
    .where(and(eq(rolloutTargets.rolloutId, rolloutId), filter, after && gt(deviceId, after[0])))
    .orderBy(asc(deviceId))
    .limit(limit);
}

/** What GET /jobs/{id}/executions may be filtered by. */
export const executionFields: Fields = {
  device: text(devices.name, { fold: true }),
  status: word(executions.status, statuses),
};

export type ExecutionRow = typeof executions.$inferSelect;

/** The latest execution of each device that was told this job, by the devices' ids. */
export async function listExecutionsOf(db: Db, jobId: string, { filter, after, limit }: Page<[deviceId: string]>) {
  const { deviceId, attempt } = executions;
  const isLatest = sql`not exists (select from executions later where later.job_id = ${executions.jobId}
    and later.device_id = ${deviceId} and later.attempt > ${attempt})`;
  return db
    .select({ device: devices.name, execution: executions })
    .from(executions)
    .leftJoin(devices, eq(devices.id, deviceId))
    .where(and(eq(executions.jobId, jobId), isLatest, filter, after && gt(deviceId, after[0])))
    .orderBy(asc(deviceId))
    .limit(limit);
}
