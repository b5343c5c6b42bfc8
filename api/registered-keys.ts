import { createRoute, z } from '@hono/zod-openapi';
import { releaseKey } from '../db/registered-keys.ts';
import * as schemas from './schemas.ts';
import { notFound, otherwise } from './schemas.ts';

const release = createRoute({
  method: 'delete',
  path: '/devices/{name}/registered-key',
  operationId: 'releaseRegisteredKey',
  summary: 'Lets any key enrol under the name, for which a file has registered one',
  tags: ['registrations'],
  request: { params: z.object({ name: schemas.deviceName }) },
  responses: { 204: { description: 'No key is registered for it any more' }, ...otherwise },
});

export const registeredKeyRoutes = () =>
  schemas.createRouter().openapi(release, async (c) => {
    if (!(await releaseKey(c.var.db, c.var.actor, c.req.valid('param').name))) throw notFound();
    return c.body(null, 204);
  });
