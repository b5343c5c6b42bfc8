import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { Db } from '../db/client.ts';
import { approveRollout, denyRollout } from '../db/rollout-approvals.ts';
import * as orders from '../db/rollout-orders.ts';
import { retryRollout } from '../db/rollout-retries.ts';
import { rolloutProgressed, runRolloutId } from '../workflows/run-rollout.ts';
import type { Api, RouteDeps } from './app.ts';
import { Problem } from './problem.ts';
import { failureKinds } from './rollout-plans.ts';
import { createRolloutViews, wholeRollout } from './rollout-views.ts';
import * as schemas from './schemas.ts';
import { answer, body, notFound, otherwise } from './schemas.ts';

const params = z.object({ id: schemas.uuid });

const judgement = {
  planHash: z
    .string()
    .regex(/^[0-9a-f]{64}$/, '64 lower-case hexadecimal digits')
    .openapi({ description: 'Of the plan that is judged, as the rollout shows it' }),
};
const approval = z.strictObject(judgement).openapi('RolloutApproval');
const denial = z.strictObject({ ...judgement, reason: schemas.plainText(200).optional() }).openapi('RolloutDenial');
const nothing = z.strictObject({});
const stop = z
  .strictObject({
    inProgress: z
      .enum(['finish', 'cancel'])
      .optional()
      .openapi({ description: 'What becomes of devices that have begun; else as the plan says' }),
  })
  .openapi('RolloutStop');
const retry = z
  .strictObject({
    kinds: z.array(z.enum(failureKinds)).min(1).max(failureKinds.length).optional().openapi({
      description: 'Which devices; all that failed where it is left out. One that reverted has FAILED',
    }),
  })
  .openapi('RolloutRetry');

/** Of an order; `required` says whether it must have a body. */
const post = <Verb extends string, Schema extends z.ZodType>(
  verb: Verb,
  summary: string,
  schema: Schema,
  { required = false } = {},
) => ({
  method: 'post' as const,
  path: `/rollouts/{id}/${verb}` as const,
  operationId: `${verb}Rollout`,
  summary,
  tags: ['rollouts'],
  request: { params, body: { ...body(schema), required } },
});
const atOnce = { 200: answer('As it is now', wholeRollout), ...otherwise };
const inTime = { 202: answer('As it is now; its lifecycle carries it out', wholeRollout), ...otherwise };

const routes = {
  approve: createRoute({
    ...post('approve', 'Consents to the plan of that hash, by another key than those that asked', approval, {
      required: true,
    }),
    responses: atOnce,
  }),
  deny: createRoute({
    ...post('deny', 'Ends it before it begins, by another key than those that asked', denial, { required: true }),
    responses: atOnce,
  }),
  start: createRoute({ ...post('start', 'Begins it now', nothing), responses: inTime }),
  pause: createRoute({ ...post('pause', 'Tells nobody more, until it is resumed', nothing), responses: atOnce }),
  resume: createRoute({
    ...post('resume', 'Lets it go on, past the gate where it stands', nothing),
    responses: atOnce,
  }),
  stop: createRoute({ ...post('stop', 'Ends it early', stop), responses: inTime }),
  undo: createRoute({
    ...post('undo', 'Sends each updated device back to what it ran before, also after the end', nothing),
    responses: inTime,
  }),
  retry: createRoute({ ...post('retry', 'Gives devices that failed another attempt', retry), responses: inTime }),
};

export function rolloutOrderRoutes(temporal: RouteDeps) {
  const { show } = createRolloutViews(temporal);
  const after = async (c: Context<Api>, id: string, give: Give) => {
    await obey(c, id, give);
    return show(c.var.db, id);
  };
  return schemas
    .createRouter()
    .openapi(routes.approve, async (c) => {
      const { planHash } = c.req.valid('json');
      return c.json(await after(c, c.req.valid('param').id, (db, order) => approveRollout(db, order, planHash)), 200);
    })
    .openapi(routes.deny, async (c) => {
      const { planHash, reason } = c.req.valid('json');
      return c.json(
        await after(c, c.req.valid('param').id, (db, order) => denyRollout(db, order, planHash, reason)),
        200,
      );
    })
    .openapi(routes.start, async (c) => c.json(await after(c, c.req.valid('param').id, orders.startRollout), 202))
    .openapi(routes.pause, async (c) => c.json(await after(c, c.req.valid('param').id, orders.pauseRollout), 200))
    .openapi(routes.resume, async (c) => c.json(await after(c, c.req.valid('param').id, orders.resumeRollout), 200))
    .openapi(routes.stop, async (c) => {
      const { inProgress } = c.req.valid('json');
      return c.json(
        await after(c, c.req.valid('param').id, (db, order) => orders.stopRollout(db, order, inProgress)),
        202,
      );
    })
    .openapi(routes.undo, async (c) => c.json(await after(c, c.req.valid('param').id, orders.undoRollout), 202))
    .openapi(routes.retry, async (c) => {
      const { kinds = [...failureKinds] } = c.req.valid('json');
      return c.json(await after(c, c.req.valid('param').id, (db, order) => retryRollout(db, order, kinds)), 202);
    });
}

type Give = (db: Db, order: orders.Order) => Promise<orders.Outcome>;

/** Gives an order in the name of who asks; throws the problem when it is not taken. */
export async function obey(c: Context<Api>, id: string, give: Give): Promise<void> {
  const workflow = { id: runRolloutId(id), name: 'runRollout', poke: rolloutProgressed.name };
  const outcome = await give(c.var.db, { id, actor: c.var.actor, workflow });
  if (outcome === undefined) throw notFound();
  if (outcome !== 'given') throw new Problem(outcome.refused, outcome.words);
  c.var.tell({ outbox: true });
}
