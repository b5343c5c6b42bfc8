import { createRoute, z } from '@hono/zod-openapi';
import * as keys from '../db/order-keys.ts';
import { orderKeyStates } from '../db/order-schema.ts';
import type { RouteDeps } from './app.ts';
import * as schemas from './schemas.ts';
import { answer, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['releases'];
const path = '/order-keys/{id}';
const params = z.object({ id: z.string().regex(/^[A-Za-z0-9_-]{43}$/) });

const orderKey = z
  .object({
    id: z.string().openapi({ description: 'The RFC 7638 thumbprint: `kid` of its orders' }),
    algorithm: z.literal('ES256'),
    publicKeyPem: z.string(),
    state: z.enum(orderKeyStates).openapi({
      description: 'SIGNING signs; STANDBY will sign, or did: devices know both. RETIRED is for no device any more',
    }),
    createdAt: schemas.instant,
    retiredAt: schemas.instant.nullable(),
  })
  .openapi('OrderKey');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/order-keys',
    operationId: 'listOrderKeys',
    summary: 'Keys by which devices know an order, by id',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('By id', orderKey), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getOrderKey',
    summary: 'One key',
    tags,
    request: { params },
    responses: { 200: answer('The key', orderKey), ...otherwise },
  }),
};

export const orderKeyRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: keys.orderKeyFields,
        find: keys.listOrderKeys,
        place: (row) => [row.id],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.get, async (c) => {
      const row = await keys.findOrderKey(c.var.db, c.req.valid('param').id);
      if (!row) throw notFound();
      return c.json(present(row), 200);
    });

const present = ({ createdAt, retiredAt, ...row }: keys.OrderKeyRow) => ({
  ...row,
  algorithm: 'ES256' as const,
  createdAt: createdAt.toISOString(),
  retiredAt: retiredAt?.toISOString() ?? null,
});
