import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { decideRecovery, findRecovery, listRecoveries, recoveryFields } from '../db/recoveries.ts';
import { recoveryStates } from '../db/recovery-schema.ts';
import type { Api, RouteDeps } from './app.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['certificates'];

const recovery = z
  .object({
    certificateId: schemas.certificateId.openapi({ description: 'The one that has ended' }),
    device: schemas.deviceName,
    notAfter: schemas.instant.openapi({ description: 'When it ended' }),
    spkiSha256: z.string().openapi({ description: 'The new key: what is granted is granted to it alone' }),
    policy: z.string(),
    state: z.enum(recoveryStates),
    askedAt: schemas.instant,
    decidedBy: z.string().nullable(),
    decidedAt: schemas.instant.nullable(),
  })
  .openapi('Recovery', {
    description: 'A device that asks to come back on a certificate that ended while it was away',
  });

const params = z.object({ certificateId: schemas.certificateId });
const nothing = { ...body(z.strictObject({})), required: false };

const routes = {
  list: createRoute({
    method: 'get',
    path: '/recoveries',
    operationId: 'listRecoveries',
    summary: 'Devices that ask to come back, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', recovery), ...otherwise },
  }),
  approve: createRoute({
    method: 'post',
    path: '/recoveries/{certificateId}/approve',
    operationId: 'approveRecovery',
    summary: 'Lets a device come back; it finds out when it asks again',
    tags,
    request: { params, body: nothing },
    responses: { 200: answer('Granted', recovery), ...otherwise },
  }),
  deny: createRoute({
    method: 'post',
    path: '/recoveries/{certificateId}/deny',
    operationId: 'denyRecovery',
    summary: 'Refuses a device that waits; it may be approved of later',
    tags,
    request: { params, body: nothing },
    responses: { 200: answer('Denied', recovery), ...otherwise },
  }),
};

export const recoveryRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: recoveryFields,
        find: listRecoveries,
        place: ({ recovery: { askedAt, certificateId } }) => [askedAt.toISOString(), certificateId],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.approve, async (c) => c.json(await decide(c, c.req.valid('param').certificateId, 'GRANTED'), 200))
    .openapi(routes.deny, async (c) => c.json(await decide(c, c.req.valid('param').certificateId, 'DENIED'), 200));

async function decide(c: Context<Api>, certificateId: string, state: 'GRANTED' | 'DENIED') {
  const { db, actor } = c.var;
  const isDecided = await decideRecovery(db, actor, { certificateId, state });
  const row = await findRecovery(db, certificateId);
  if (!row) throw notFound();
  if (!isDecided) throw new Problem('conflict', 'The device does not wait for approval.');
  return present(row);
}

type Row = NonNullable<Awaited<ReturnType<typeof findRecovery>>>;

const present = ({ recovery: row, device, notAfter }: Row) => ({
  certificateId: row.certificateId,
  device,
  notAfter: notAfter.toISOString(),
  spkiSha256: Buffer.from(row.spkiSha256).toString('hex'),
  policy: row.policy,
  state: row.state,
  askedAt: row.askedAt.toISOString(),
  decidedBy: row.decidedBy,
  decidedAt: row.decidedAt?.toISOString() ?? null,
});
