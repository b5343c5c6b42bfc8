import { createRoute, z } from '@hono/zod-openapi';
import * as keys from '../db/release-keys.ts';
import { readReleaseKey, ReleaseKeyFault } from '../pki/release-keys.ts';
import { rolloutProgressed, runRolloutId } from '../workflows/run-rollout.ts';
import type { RouteDeps } from './app.ts';
import { product } from './manifests.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['releases'];
const path = '/release-keys/{id}';
const params = z.object({ id: z.string().regex(/^[A-Za-z0-9_-]{43}$/) });
const products = z
  .array(product)
  .min(1)
  .max(100)
  .nullable()
  .openapi({ description: 'What it may sign for; null is anything' });

const releaseKey = z
  .object({
    id: z.string().openapi({ description: 'The RFC 7638 thumbprint: `kid` of its manifests' }),
    name: z.string(),
    algorithm: z.enum(['ES256', 'EdDSA']),
    publicKeyPem: z.string(),
    products,
    createdBy: z.string(),
    createdAt: schemas.instant,
    revokedAt: schemas.instant.nullable(),
    revocationReason: z.string().nullable(),
  })
  .openapi('ReleaseKey');

const newReleaseKey = z
  .strictObject({
    name: schemas.plainText(100).min(1),
    publicKeyPem: z
      .string()
      .min(1)
      .max(4_096)
      .openapi({ description: 'P-256 or Ed25519, SubjectPublicKeyInfo in PEM' }),
    products: products.default(null),
  })
  .openapi('NewReleaseKey');

const revocation = z
  .strictObject({
    reason: schemas.plainText(200).min(1),
    keepReleases: z.boolean().default(false).openapi({
      description: 'What it has signed stays good: for a key that is laid aside, not for one that was lost',
    }),
  })
  .openapi('ReleaseKeyRevocation');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/release-keys',
    operationId: 'listReleaseKeys',
    summary: 'Keys that may sign manifests, by id',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('By id', releaseKey), ...otherwise },
  }),
  create: createRoute({
    method: 'post',
    path: '/release-keys',
    operationId: 'createReleaseKey',
    summary: 'Registers the public half of a key that signs manifests',
    tags,
    request: { body: body(newReleaseKey) },
    responses: { 201: answer('Registered', releaseKey), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getReleaseKey',
    summary: 'One key',
    tags,
    request: { params },
    responses: { 200: answer('The key', releaseKey), ...otherwise },
  }),
  revoke: createRoute({
    method: 'post',
    path: `${path}/revoke`,
    operationId: 'revokeReleaseKey',
    summary: 'Takes nothing more from it; what it has signed is revoked with it',
    tags,
    request: { params, body: body(revocation) },
    responses: { 200: answer('As it is now', releaseKey), ...otherwise },
  }),
};

/** What tells the rollouts of a release to look at it again. */
export const rolloutPoke = { workflowIdPrefix: runRolloutId(''), signal: rolloutProgressed.name };

export const releaseKeyRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: keys.releaseKeyFields,
        find: keys.listReleaseKeys,
        place: (row) => [row.id],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.create, async (c) => {
      const { publicKeyPem, ...request } = c.req.valid('json');
      const key = await readKey(publicKeyPem);
      const row = await keys.insertReleaseKey(c.var.db, c.var.actor, { ...request, ...key });
      if (!row) throw alreadyHere();
      return c.json(present(row), 201);
    })
    .openapi(routes.get, async (c) => {
      const row = await keys.findReleaseKey(c.var.db, c.req.valid('param').id);
      if (!row) throw notFound();
      return c.json(present(row), 200);
    })
    .openapi(routes.revoke, async (c) => {
      const { id } = c.req.valid('param');
      const request = { id, ...c.req.valid('json'), poke: rolloutPoke };
      const row = await keys.revokeReleaseKey(c.var.db, c.var.actor, request);
      if (row) {
        c.var.tell({ outbox: true });
        return c.json(present(row), 200);
      }
      throw (await keys.findReleaseKey(c.var.db, id))
        ? new Problem('conflict', 'The key is revoked already.')
        : notFound();
    });

async function readKey(pem: string) {
  try {
    return await readReleaseKey(pem);
  } catch (error) {
    if (!(error instanceof ReleaseKeyFault)) throw error;
    const errors = [{ pointer: '/publicKeyPem', detail: error.message }];
    throw new Problem('key-refused', `The key is not taken: ${error.message}.`, { errors });
  }
}

const alreadyHere = () =>
  new Problem('conflict', 'This key is registered already. One that was revoked never becomes good again.', {
    errors: [{ pointer: '/publicKeyPem', detail: 'the key is registered already' }],
  });

const present = ({ createdAt, revokedAt, ...row }: keys.ReleaseKeyRow) => ({
  ...row,
  createdAt: createdAt.toISOString(),
  revokedAt: revokedAt?.toISOString() ?? null,
});
