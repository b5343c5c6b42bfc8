import { createRoute, z } from '@hono/zod-openapi';
import type { Db } from '../db/client.ts';
import type { Page } from '../db/fields.ts';
import { findJob } from '../db/jobs.ts';
import { executionFields, listExecutionsOf } from '../db/rollout-executions.ts';
import type { RouteDeps } from './app.ts';
import { jobContent, judgeContent, readDocument } from './job-documents.ts';
import { execution, presentExecution } from './rollout-executions.ts';
import { jobPlan, planOf } from './rollout-plans.ts';
import { createRolloutViews, wholeRollout } from './rollout-views.ts';
import { record } from './rollouts.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['jobs'];
const path = '/jobs/{id}';
const params = z.object({ id: schemas.uuid });

const newJob = z
  .strictObject({ name: schemas.plainText(200).min(1).optional(), ...jobContent, ...jobPlan })
  .superRefine((job, context) =>
    judgeContent(job, (at, message) => context.addIssue({ code: 'custom', path: at, message })),
  )
  .openapi('NewJob');

const job = z
  .object({
    id: schemas.uuid.openapi({
      description: 'What devices call it. Of a job that was asked for, also its rollout’s id',
    }),
    document: z.record(z.string(), z.unknown()),
    documentText: z
      .string()
      .openapi({ description: 'Byte by byte as devices are given it, but for addresses and the order' }),
    startWithinSeconds: z.int().nullable(),
    endWithinSeconds: z.int().nullable(),
    createdAt: schemas.instant,
    rollout: wholeRollout.openapi({ description: 'Which delivers it, and takes orders for it' }),
  })
  .openapi('Job');

const jobExecution = execution
  .extend({ device: schemas.deviceName.nullable(), deviceId: schemas.uuid })
  .openapi('JobExecution');

const routes = {
  create: createRoute({
    method: 'post',
    path: '/jobs',
    operationId: 'createJob',
    summary: 'Gives devices a document to execute',
    description: `A rollout of a document, with the same rules but gentler ones where nothing is said: one wave with
everyone, and no gate. Its id is that of its rollout, so it is paused, stopped and followed there.`,
    tags,
    request: { body: body(newJob) },
    responses: { 202: answer('Recorded; its lifecycle tells the devices', job), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getJob',
    summary: 'One job, also one of a release or of a way back',
    tags,
    request: { params },
    responses: { 200: answer('The job', job), ...otherwise },
  }),
  executions: createRoute({
    method: 'get',
    path: `${path}/executions`,
    operationId: 'listJobExecutions',
    summary: 'The devices that were told, each with its latest attempt',
    tags,
    request: { params, query: listQuery },
    responses: { 200: listOf('By the devices’ ids', jobExecution), ...otherwise },
  }),
};

export function jobRoutes({ findPage, ...temporal }: RouteDeps) {
  const { show } = createRolloutViews(temporal);
  const present = async (db: Db, id: string) => {
    const row = await findJob(db, id);
    // The order of a rotation is no job of an operator's.
    if (!row?.rolloutId) throw notFound();
    return {
      id,
      // Only objects become jobs.
      document: JSON.parse(row.document) as Record<string, unknown>,
      documentText: row.document,
      startWithinSeconds: row.startWithinSeconds,
      endWithinSeconds: row.endWithinSeconds,
      createdAt: row.createdAt.toISOString(),
      rollout: await show(db, row.rolloutId),
    };
  };
  return schemas
    .createRouter()
    .openapi(routes.create, async (c) => {
      const request = c.req.valid('json');
      const { name = request.template ?? 'job' } = request;
      const told = readDocument(request, '');
      const id = await record(c, { name, plan: planOf(request), told }, []);
      return c.json(await present(c.var.db, id), 202);
    })
    .openapi(routes.get, async (c) => c.json(await present(c.var.db, c.req.valid('param').id), 200))
    .openapi(routes.executions, async (c) => {
      const { id } = c.req.valid('param');
      if (!(await findJob(c.var.db, id))) throw notFound();
      const rows = await findPage(c, c.req.valid('query'), {
        fields: executionFields,
        find: (db, page: Page<[deviceId: string]>) => listExecutionsOf(db, id, page),
        place: (row) => [row.execution.deviceId],
      });
      const items = rows.map(({ device, execution: row }) => {
        return { device, deviceId: row.deviceId, ...presentExecution(row) };
      });
      return c.json({ items }, 200);
    });
}
