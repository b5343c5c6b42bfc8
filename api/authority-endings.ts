import type { Context } from 'hono';
import { createRoute, z } from '@hono/zod-openapi';
import { countDevicesUnder, endAuthority, listDevicesUnder } from '../db/authority-endings.ts';
import type { EndAuthority, EndRefusal, LivingUnder } from '../db/authority-endings.ts';
import type { Page } from '../db/fields.ts';
import { rotateExpiringId } from '../workflows/rotate-expiring.ts';
import type { Api, RouteDeps } from './app.ts';
import { revocationReason } from './certificates.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['authorities'];
const path = '/authorities/{id}';
const params = z.object({ id: schemas.uuid });
const shownMax = 100;
const runs = { idPrefix: rotateExpiringId(''), name: 'rotateExpiring' };

const hit = z
  .object({ device: schemas.deviceName, certificateId: schemas.certificateId, notAfter: schemas.instant })
  .openapi('CertificateUnderAuthority');

const ended = z
  .object({
    id: schemas.uuid,
    name: z.string(),
    state: z.enum(['RETIRED', 'REVOKED']),
    revocationReason: z.string().nullable(),
    endedAt: schemas.instant,
    notAfter: schemas.instant,
    devices: z.int().openapi({ description: 'How many devices have a living certificate of it' }),
    certificates: z.array(hit).openapi({ description: `The first ${shownMax} of theirs; the list has all` }),
  })
  .openapi('EndedAuthority');

const hitDescription = `From now on it issues nothing. What it has issued stays good until it is replaced: gateways know each
certificate by its own row, so one that somebody else signed with a stolen key is never let in.`;

const routes = {
  retire: createRoute({
    method: 'post',
    path: `${path}/retire`,
    operationId: 'retireAuthority',
    summary: 'Takes an authority out of service, and says whose certificates are to be replaced',
    description: hitDescription,
    tags,
    request: { params },
    responses: { 200: answer('Retired', ended), ...otherwise },
  }),
  revoke: createRoute({
    method: 'post',
    path: `${path}/revoke`,
    operationId: 'revokeAuthority',
    summary: 'Revokes an authority, and says whose certificates are to be replaced',
    description: `${hitDescription} The list of its root tells of it as soon as the root's key is there to sign it.`,
    tags,
    request: { params, body: body(z.strictObject({ reason: revocationReason }).openapi('AuthorityRevocation')) },
    responses: { 200: answer('Revoked', ended), ...otherwise },
  }),
  devices: createRoute({
    method: 'get',
    path: `${path}/devices`,
    operationId: 'listDevicesUnderAuthority',
    summary: 'Devices with a living certificate of the authority',
    tags,
    request: { params, query: listQuery.omit({ filter: true }) },
    responses: { 200: listOf('By the ids of device and certificate', hit), ...otherwise },
  }),
};

export function authorityEndingRoutes({ findPage }: RouteDeps) {
  async function end(c: Context<Api>, asked: EndAuthority) {
    const row = await endAuthority(c.var.db, c.var.actor, asked, runs);
    if (typeof row !== 'object') throw refused(row);
    const { id, name, state, revocationReason: reason, endedAt, notAfter } = row;
    return {
      id,
      name,
      // Never ACTIVE: it was ended just now, or before.
      state: state === 'REVOKED' ? ('REVOKED' as const) : ('RETIRED' as const),
      revocationReason: reason,
      endedAt: (endedAt ?? new Date()).toISOString(),
      notAfter: notAfter.toISOString(),
      devices: await countDevicesUnder(c.var.db, id),
      certificates: (await listDevicesUnder(c.var.db, { limit: shownMax }, id)).map(present),
    };
  }

  return schemas
    .createRouter()
    .openapi(routes.retire, async (c) => c.json(await end(c, { ...c.req.valid('param'), state: 'RETIRED' }), 200))
    .openapi(routes.revoke, async (c) =>
      c.json(await end(c, { ...c.req.valid('param'), ...c.req.valid('json'), state: 'REVOKED' }), 200),
    )
    .openapi(routes.devices, async (c) => {
      const { id } = c.req.valid('param');
      const rows = await findPage(c, c.req.valid('query'), {
        fields: {},
        find: (db, page: Page<[string, string]>) => listDevicesUnder(db, page, id),
        place: (row) => [row.deviceId, row.certificateId],
      });
      return c.json({ items: rows.map(present) }, 200);
    });
}

const present = ({ device, certificateId, notAfter }: LivingUnder) => ({
  device,
  certificateId,
  notAfter: notAfter.toISOString(),
});

function refused(why: EndRefusal): Problem {
  if (why === 'unknown') return notFound();
  if (why === 'root') return new Problem('conflict', 'A root stands at the top: nobody could revoke it. Retire it.');
  if (why === 'last') return new Problem('conflict', 'There is no other: make its successor first.');
  if (why === 'inUse') return new Problem('conflict', 'An authority under this root issues or stands by.');
  return new Problem('conflict', `${why} certificates live under this root: they are to be replaced first.`);
}
