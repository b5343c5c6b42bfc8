import { randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { changeRollout } from '../db/rollout-approvals.ts';
import { insertRollout, type NewRollout } from '../db/rollout-creation.ts';
import { listRollouts, rolloutFields } from '../db/rollouts.ts';
import { runRolloutId } from '../workflows/run-rollout.ts';
import type { Api, RouteDeps } from './app.ts';
import { jobContent, judgeContent, readDocument } from './job-documents.ts';
import { Problem } from './problem.ts';
import { changePlan, planChanges } from './rollout-changes.ts';
import { obey } from './rollout-orders.ts';
import { planOf, releasePlan } from './rollout-plans.ts';
import { createRolloutViews, rollout, wholeRollout } from './rollout-views.ts';
import * as schemas from './schemas.ts';
import { answer, body, faultsOf, listOf, listQuery, otherwise, pointerTo } from './schemas.ts';

const tags = ['rollouts'];
const path = '/rollouts/{id}';
const params = z.object({ id: schemas.uuid });

const newRollout = z
  .strictObject({
    name: schemas.plainText(200).min(1),
    release: schemas.uuid
      .optional()
      .openapi({ description: 'What devices are to run: an update, proven by their reports' }),
    job: z.strictObject(jobContent).optional().openapi({ description: 'In place of `release`: any other document' }),
    ...releasePlan,
  })
  .superRefine(({ release, job }, context) => {
    const fault = (at: string[], message: string) => context.addIssue({ code: 'custom', path: at, message });
    if ((release === undefined) === (job === undefined)) fault(['release'], 'a rollout has either release or job');
    if (job) judgeContent(job, (at, message) => fault(['job', ...at], message));
  })
  .openapi('NewRollout');

const routes = {
  create: createRoute({
    method: 'post',
    path: '/rollouts',
    operationId: 'createRollout',
    summary: 'Delivers a release, or a job, to many devices in waves',
    tags,
    request: { body: body(newRollout) },
    responses: { 202: answer('Recorded; its lifecycle enlists the devices and begins', wholeRollout), ...otherwise },
  }),
  list: createRoute({
    method: 'get',
    path: '/rollouts',
    operationId: 'listRollouts',
    summary: 'Rollouts and jobs, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', rollout), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getRollout',
    summary: 'One rollout, with its plan and where each wave stands',
    tags,
    request: { params },
    responses: { 200: answer('The rollout', wholeRollout), ...otherwise },
  }),
  change: createRoute({
    method: 'patch',
    path,
    operationId: 'changeRollout',
    summary: 'Changes caps, limits, gate, timers or windows; what was approved must be approved again',
    tags,
    request: { params, body: body(planChanges) },
    responses: { 200: answer('As it is now', wholeRollout), ...otherwise },
  }),
};

export function rolloutRoutes({ findPage, ...temporal }: RouteDeps) {
  const { present, show } = createRolloutViews(temporal);
  return schemas
    .createRouter()
    .openapi(routes.create, async (c) => {
      const request = c.req.valid('json');
      const { name, release, job = {} } = request;
      const told = release === undefined ? readDocument(job, '/job') : { release };
      const id = await record(c, { name, plan: planOf(request), told });
      return c.json(await show(c.var.db, id), 202);
    })
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: rolloutFields,
        find: listRollouts,
        place: (row) => [row.rollout.id],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.get, async (c) => c.json(await show(c.var.db, c.req.valid('param').id), 200))
    .openapi(routes.change, async (c) => {
      const { id } = c.req.valid('param');
      const changes = c.req.valid('json');
      await obey(c, id, (db, order) =>
        changeRollout(db, order, (plan) => {
          const changed = changePlan(plan, changes);
          if ('plan' in changed) return changed.plan;
          throw new Problem('invalid', 'The plan would break a rule.', { errors: changed.issues.flatMap(faultsOf) });
        }),
      );
      return c.json(await show(c.var.db, id), 200);
    });
}

/** Records a rollout and gives its id. `content` is where the job stands in the body. */
export async function record(
  c: Context<Api>,
  asked: Omit<NewRollout, 'id' | 'workflow'>,
  content = ['job'],
): Promise<string> {
  const id = randomUUIDv7();
  const faults = await insertRollout(c.var.db, c.var.actor, {
    ...asked,
    id,
    workflow: { id: runRolloutId(id), name: 'runRollout' },
  });
  if (faults.length === 0) {
    c.var.tell({ outbox: true });
    return id;
  }
  const errors = faults.map(({ path: at, detail }) => {
    return { pointer: pointerTo(at[0] === 'job' ? [...content, ...at.slice(1)] : at), detail };
  });
  throw new Problem('invalid', 'Nobody is told anything; each fault is listed.', { errors });
}
