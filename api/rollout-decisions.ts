import { createRoute, z } from '@hono/zod-openapi';
import type { Page } from '../db/fields.ts';
import { listDecisions, type DecisionRow } from '../db/rollout-decisions.ts';
import { findRollout } from '../db/rollouts.ts';
import type { RouteDeps } from './app.ts';
import * as schemas from './schemas.ts';
import { listOf, listQuery, notFound, otherwise } from './schemas.ts';

const decision = z
  .object({
    id: schemas.uuid,
    kind: z.string().openapi({ example: 'paused' }),
    words: z.string().openapi({ example: '3 devices failed, timed out or rejected it; the limit is 3.' }),
    sample: z.record(z.string(), z.unknown()).openapi({
      description: 'What tripped it (`because`), and of its own decisions all that they rest on (`standing`)',
    }),
    actor: z.string(),
    at: schemas.instant,
  })
  .openapi('RolloutDecision');

const list = createRoute({
  method: 'get',
  path: '/rollouts/{id}/decisions',
  operationId: 'listRolloutDecisions',
  summary: 'What was decided, by whom and why, in its order',
  tags: ['rollouts'],
  request: { params: z.object({ id: schemas.uuid }), query: listQuery.omit({ filter: true }) },
  responses: { 200: listOf('The oldest first', decision), ...otherwise },
});

export const rolloutDecisionRoutes = ({ findPage }: RouteDeps) =>
  schemas.createRouter().openapi(list, async (c) => {
    const { id } = c.req.valid('param');
    if (!(await findRollout(c.var.db, id))) throw notFound();
    const rows = await findPage(c, c.req.valid('query'), {
      fields: {},
      find: (db, page: Page<[id: string]>) => listDecisions(db, id, page),
      place: (row) => [row.id],
    });
    return c.json({ items: rows.map(present) }, 200);
  });

const present = ({ id, kind, words, sample, actor, at }: DecisionRow) => ({
  id,
  kind,
  words,
  sample,
  actor,
  at: at.toISOString(),
});
