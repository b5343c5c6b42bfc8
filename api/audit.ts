import { createRoute, z } from '@hono/zod-openapi';
import { auditFields, listAudit, type AuditRow } from '../db/audit.ts';
import type { RouteDeps } from './app.ts';
import * as schemas from './schemas.ts';
import { listOf, listQuery, otherwise } from './schemas.ts';

const entry = z
  .object({
    id: schemas.uuid,
    actor: z.string(),
    action: z.string(),
    subject: z.string(),
    data: z.record(z.string(), z.unknown()),
    at: schemas.instant,
  })
  .openapi('AuditEntry');

const list = createRoute({
  method: 'get',
  path: '/audit',
  operationId: 'listAudit',
  summary: 'Who did what, the youngest first',
  tags: ['audit'],
  request: { query: listQuery },
  responses: { 200: listOf('The youngest first', entry), ...otherwise },
});

export const auditRoutes = ({ findPage }: RouteDeps) =>
  schemas.createRouter().openapi(list, async (c) => {
    const rows = await findPage(c, c.req.valid('query'), {
      fields: auditFields,
      find: listAudit,
      place: (row) => [row.id],
    });
    return c.json({ items: rows.map(present) }, 200);
  });

const present = ({ at, ...row }: AuditRow) => ({ ...row, at: at.toISOString() });
