import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { Db } from '../db/client.ts';
import { approveEnrolment, denyEnrolment, type Judged, type Judgement } from '../db/enrolment-decisions.ts';
import { enrolmentFields, enrolmentStates, findEnrolment, listEnrolments } from '../db/enrolments.ts';
import { enrolmentDecided, provisionDeviceId } from '../workflows/provision-device.ts';
import type { Api, RouteDeps } from './app.ts';
import { lifecycleOf } from './lifecycles.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['enrolments'];

const enrolment = z
  .object({
    id: schemas.uuid,
    claimId: schemas.uuid,
    template: z.string(),
    certificateId: schemas.certificateId.nullable().openapi({ description: 'Null while it waits to be issued' }),
    device: z.string().nullable().openapi({ description: 'Its name, also of one that waits to be approved' }),
    state: z.enum(enrolmentStates),
    waitsFor: z.enum(['approval', 'device-exists']).nullable().openapi({
      description:
        'Why an operator is or was asked: the template wants it, or a device of the name is enrolled already',
    }),
    approvedBy: z.string().nullable(),
    approvedAt: schemas.instant.nullable(),
    attributes: schemas.attributes.nullable().openapi({ description: 'Of one that waits or has waited' }),
    closesAt: schemas.instant,
    createdAt: schemas.instant,
    updatedAt: schemas.instant,
    lifecycle: schemas.lifecycle,
  })
  .openapi('Enrolment');

const denial = z.strictObject({ reason: schemas.plainText(200).optional() }).openapi('EnrolmentDenial');

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
  approve: createRoute({
    method: 'post',
    path: '/enrolments/{id}/approve',
    operationId: 'approveEnrolment',
    summary: 'Lets a device that waits enrol; it finds out when it asks again',
    tags,
    request: { params: z.object({ id: schemas.uuid }), body: { ...body(z.strictObject({})), required: false } },
    responses: { 202: answer('Approved; its lifecycle carries it out', enrolment), ...otherwise },
  }),
  deny: createRoute({
    method: 'post',
    path: '/enrolments/{id}/deny',
    operationId: 'denyEnrolment',
    summary: 'Refuses a device that waits; its certificate, if there is one, is revoked',
    tags,
    request: { params: z.object({ id: schemas.uuid }), body: { ...body(denial), required: false } },
    responses: { 200: answer('Denied', enrolment), ...otherwise },
  }),
};

export function enrolmentRoutes({ findPage, ...temporal }: RouteDeps) {
  const present = ({ enrolment: row, device }: Row) => ({
    id: row.id,
    claimId: row.claimId,
    template: row.template,
    certificateId: row.certificateId,
    device: device ?? row.registration?.name ?? null,
    state: row.state,
    waitsFor: row.waitsFor,
    approvedBy: row.approvedBy,
    approvedAt: row.approvedAt?.toISOString() ?? null,
    attributes: row.registration?.attributes ?? null,
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
    })
    .openapi(routes.approve, async (c) =>
      c.json(present(await judge(c, approveEnrolment, { id: c.req.valid('param').id })), 202),
    )
    .openapi(routes.deny, async (c) => {
      const judgement = { id: c.req.valid('param').id, reason: c.req.valid('json').reason };
      const denied = await judge(c, denyEnrolment, judgement);
      c.var.tell({ feed: true });
      return c.json(present(denied), 200);
    });
}

type Judge = (db: Db, judgement: Judgement) => Promise<Judged>;

/** Judges in the name of who asks; throws the problem when there is nothing to judge. */
async function judge(c: Context<Api>, give: Judge, about: Pick<Judgement, 'id' | 'reason'>): Promise<Row> {
  const lifecycle = { idPrefix: provisionDeviceId(''), poke: enrolmentDecided.name };
  const judged = await give(c.var.db, { ...about, actor: c.var.actor, lifecycle });
  if (judged === 'not-waiting') throw new Problem('conflict', 'The enrolment does not wait for approval.');
  const row = judged === 'judged' ? await findEnrolment(c.var.db, about.id) : undefined;
  if (!row) throw notFound();
  return row;
}

type Row = NonNullable<Awaited<ReturnType<typeof findEnrolment>>>;
