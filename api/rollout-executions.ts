import { createRoute, z } from '@hono/zod-openapi';
import type { Page } from '../db/fields.ts';
import * as executions from '../db/rollout-executions.ts';
import { findRollout } from '../db/rollouts.ts';
import type { RouteDeps } from './app.ts';
import { undoVerdict, verdict } from './rollout-views.ts';
import * as schemas from './schemas.ts';
import { listOf, listQuery, notFound, otherwise } from './schemas.ts';

const params = z.object({ id: schemas.uuid });

export const execution = z
  .object({
    jobId: schemas.uuid,
    attempt: z.int(),
    status: z
      .enum(['QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED', 'REMOVED'])
      .openapi('ExecutionStatus'),
    details: z.record(z.string(), z.string()).openapi({ description: 'What the device says of it' }),
    version: z.int(),
    queuedAt: schemas.instant,
    startedAt: schemas.instant.nullable(),
    updatedAt: schemas.instant,
    endedAt: schemas.instant.nullable(),
  })
  .openapi('Execution');

const target = z
  .object({
    device: schemas.deviceName.nullable().openapi({ description: 'Null when the device is gone' }),
    deviceId: schemas.uuid,
    wave: z.int(),
    direction: z.enum(['FORWARD', 'BACK']),
    state: z.enum(['SCHEDULED', 'IN_FLIGHT', 'RETRYING', 'DONE']),
    verdict: verdict.nullable(),
    undoVerdict: undoVerdict.nullable(),
    reason: z.string().nullable(),
    previousVersion: z.string().nullable().openapi({ description: 'What it ran when it was told' }),
    toldAt: schemas.instant.nullable(),
    retryAt: schemas.instant.nullable(),
    judgedAt: schemas.instant.nullable(),
    execution: execution.nullable().openapi({ description: 'The latest; null when it was not told yet' }),
  })
  .openapi('RolloutExecution');

const list = createRoute({
  method: 'get',
  path: '/rollouts/{id}/executions',
  operationId: 'listRolloutExecutions',
  summary: 'Its devices, each with where it stands and how it ended',
  tags: ['rollouts'],
  request: { params, query: listQuery },
  responses: { 200: listOf('By the devices’ ids', target), ...otherwise },
});

export const rolloutExecutionRoutes = ({ findPage }: RouteDeps) =>
  schemas.createRouter().openapi(list, async (c) => {
    const { id } = c.req.valid('param');
    if (!(await findRollout(c.var.db, id))) throw notFound();
    const rows = await findPage(c, c.req.valid('query'), {
      fields: executions.targetFields,
      find: (db, page: Page<[deviceId: string]>) => executions.listTargetsOf(db, id, page),
      place: (row) => [row.target.deviceId],
    });
    return c.json({ items: rows.map(present) }, 200);
  });

const present = ({ device, target: row, execution: latest }: executions.TargetRow) => ({
  device,
  deviceId: row.deviceId,
  wave: row.wave,
  direction: row.direction,
  state: row.state,
  verdict: row.verdict,
  undoVerdict: row.undoVerdict,
  reason: row.reason,
  previousVersion: row.previousVersion,
  toldAt: row.toldAt?.toISOString() ?? null,
  retryAt: row.retryAt?.toISOString() ?? null,
  judgedAt: row.judgedAt?.toISOString() ?? null,
  execution: latest && presentExecution(latest),
});

export const presentExecution = (row: executions.ExecutionRow) => ({
  jobId: row.jobId,
  attempt: row.attempt,
  status: row.status,
  details: row.details,
  version: row.version,
  queuedAt: row.queuedAt.toISOString(),
  startedAt: row.startedAt?.toISOString() ?? null,
  updatedAt: row.updatedAt.toISOString(),
  endedAt: row.endedAt?.toISOString() ?? null,
});
