import { createRoute, z } from '@hono/zod-openapi';
import { blockFields, listBlocks } from '../db/blocks.ts';
import type { RouteDeps } from './app.ts';
import * as schemas from './schemas.ts';
import { listOf, listQuery, otherwise } from './schemas.ts';

const block = z
  .object({
    kind: z.enum(['device', 'key']),
    subject: z.string().openapi({ description: "A device's name in lower case, or the SHA-256 of a public key" }),
    device: z.string().openapi({ description: 'The device that was blocked; its unblocking takes all of it away' }),
    reason: z.string().nullable(),
    actor: z.string(),
    createdAt: schemas.instant,
  })
  .openapi('Block');

const list = createRoute({
  method: 'get',
  path: '/blocks',
  operationId: 'listBlocks',
  summary: 'Names and keys that cannot enrol, whatever permits it',
  tags: ['devices'],
  request: { query: listQuery },
  responses: { 200: listOf('By kind and subject', block), ...otherwise },
});

export const blockRoutes = ({ findPage }: RouteDeps) =>
  schemas.createRouter().openapi(list, async (c) => {
    const rows = await findPage(c, c.req.valid('query'), {
      fields: blockFields,
      find: listBlocks,
      place: (row) => [row.kind, row.subject],
    });
    return c.json({ items: rows.map((row) => ({ ...row, createdAt: row.createdAt.toISOString() })) }, 200);
  });
