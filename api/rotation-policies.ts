import { createRoute, z } from '@hono/zod-openapi';
import { appendToOutbox } from '../db/outbox.ts';
import { findRotationPolicy, putRotationPolicy, type RotationPolicyRow } from '../db/rotation-policies.ts';
import { rotateExpiringId } from '../workflows/rotate-expiring.ts';
import type { RouteDeps } from './app.ts';
import { lifecycleOf } from './lifecycles.ts';
import * as schemas from './schemas.ts';
import { answer, body, notFound, otherwise } from './schemas.ts';

const tags = ['certificates'];
const path = '/rotation-policies/{name}';
const params = z.object({ name: schemas.templateName });

const whole = (min: number, max: number, description: string) => z.int().min(min).max(max).openapi({ description });

const settings = z.strictObject({
  paused: z.boolean().default(false),
  earlierDays: whole(0, 3650, 'How much sooner than at two thirds of its life a certificate is due').default(0),
  everyMinutes: whole(1, 1440, 'How often is looked for what is due').default(60),
  perMinute: whole(1, 10_000, 'Rotations begun in a minute').default(60),
  atOnce: whole(1, 10_000, 'Under way at a time on devices that are connected').default(500),
  proveWithinHours: whole(1, 2160, 'From the issue of the new certificate to its first connection').default(168),
  graceHours: whole(0, 2160, 'From that connection to the end of the old certificate').default(24),
  anyTime: z.boolean().default(false).openapi({ description: 'Whether a device may ask before it is due' }),
  recoverWithinDays: whole(
    0,
    365,
    'How long after its end a device may come back on a certificate; 0 for never. As many in a minute as rotations are begun',
  ).default(0),
  recoveryApproval: z
    .boolean()
    .default(true)
    .openapi({ description: 'Whether an operator approves of each that does' }),
});

const newPolicy = settings.openapi('NewRotationPolicy');
const policy = settings
  .extend({ name: schemas.templateName, updatedAt: schemas.instant })
  .openapi('RotationPolicy', { description: 'For devices of the template of its name; `default` for all others' });

const routes = {
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getRotationPolicy',
    summary: 'A rotation policy',
    tags,
    request: { params },
    responses: { 200: answer('The policy', policy), ...otherwise },
  }),
  put: createRoute({
    method: 'put',
    path,
    operationId: 'putRotationPolicy',
    summary: 'Makes a rotation policy, or puts another in its place',
    tags,
    request: { params, body: body(newPolicy) },
    responses: { 200: answer('The policy', policy), ...otherwise },
  }),
  run: createRoute({
    method: 'post',
    path: `${path}/run`,
    operationId: 'runRotationPolicy',
    summary: 'Rotates what is due now, without waiting for the schedule',
    tags,
    request: { params },
    responses: { 202: answer('Begun', policy.extend({ lifecycle: schemas.lifecycle })), ...otherwise },
  }),
};

export const rotationPolicyRoutes = (temporal: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.get, async (c) => {
      const row = await findRotationPolicy(c.var.db, c.req.valid('param').name);
      if (!row) throw notFound();
      return c.json(present(row), 200);
    })
    .openapi(routes.put, async (c) => {
      const { name } = c.req.valid('param');
      return c.json(present(await putRotationPolicy(c.var.db, c.var.actor, { name, ...c.req.valid('json') })), 200);
    })
    .openapi(routes.run, async (c) => {
      const { name } = c.req.valid('param');
      const row = await findRotationPolicy(c.var.db, name);
      if (!row) throw notFound();
      const workflowId = rotateExpiringId(name);
      await appendToOutbox(c.var.db, [
        { kind: 'start', workflowId, name: 'rotateExpiring', argument: { policy: name } },
      ]);
      return c.json({ ...present(row), lifecycle: lifecycleOf(temporal, workflowId) }, 202);
    });

const present = ({ updatedAt, ...row }: RotationPolicyRow) => ({ ...row, updatedAt: updatedAt.toISOString() });
