import { createRoute, z } from '@hono/zod-openapi';
import { enrolmentFields, findEnrolment, listEnrolments } from '../db/enrolments.ts';
import { provisionDeviceId } from '../workflows/provision-device.ts';
import type { RouteDeps } from './app.ts';
import { lifecycleOf } from './lifecycles.ts';
import * as schemas from './schemas.ts';
import { answer, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['enrolments'];

const enrolment = z
  .object({
    id: schemas.uuid,
    claimId: schemas.uuid,
    template: z.string(),
    certificateId: schemas.certificateId,
    device: z.string().nullable(),
    state: z.enum(['ISSUED', 'REGISTERED', 'ACTIVATED', 'LAPSED']),
    closesAt: schemas.instant,
    createdAt: schemas.instant,
    updatedAt: schemas.instant,
    lifecycle: schemas.lifecycle,
  })
  .openapi('Enrolment');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/enrolments',
    operationId: 'listEnrolments',
    summary: 'Enrolments, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', enrolment), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path: '/enrolments/{id}',
    operationId: 'getEnrolment',
    summary: 'One enrolment',
    tags,
    request: { params: z.object({ id: schemas.uuid }) },
    responses: { 200: answer('The enrolment', enrolment), ...otherwise },
  }),
};

export function enrolmentRoutes({ findPage, ...temporal }: RouteDeps) {
  const present = ({ enrolment: row, device }: Row) => ({
    id: row.id,
    claimId: row.claimId,
    template: row.template,
    certificateId: row.certificateId,
    device,
    state: row.state,
    closesAt: row.closesAt.toISOString(),
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
    lifecycle: lifecycleOf(temporal, provisionDeviceId(row.key)),
  });
  return schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: enrolmentFields,
        find: listEnrolments,
        place: (row) => [row.enrolment.id],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.get, async (c) => {
      const row = await findEnrolment(c.var.db, c.req.valid('param').id);
      if (!row) throw notFound();
      return c.json(present(row), 200);
    });
}

type Row = NonNullable<Awaited<ReturnType<typeof findEnrolment>>>;
