import { randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import type { Db } from '../db/client.ts';
import { findReleaseKey } from '../db/release-keys.ts';
import * as releases from '../db/releases.ts';
import { ManifestFault, manifestLengthMax, openManifest } from '../pki/manifests.ts';
import type { RouteDeps } from './app.ts';
import { product, readManifest, sha256, version } from './manifests.ts';
import { Problem, type Fault } from './problem.ts';
import { rolloutPoke } from './release-keys.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['releases'];
const path = '/releases/{id}';
const params = z.object({ id: schemas.uuid });

const release = z
  .object({
    id: schemas.uuid,
    product,
    version,
    securityCounter: z.int(),
    hardware: z.array(z.string()),
    allowedFrom: z.array(version).nullable().openapi({ description: 'Null: from any version' }),
    downgrade: z.boolean(),
    artifact: z.object({ sha256, size: z.int(), name: z.string() }),
    keyId: z.string(),
    expiresAt: schemas.instant,
    createdBy: z.string(),
    createdAt: schemas.instant,
    revokedAt: schemas.instant.nullable(),
    revocationReason: z.string().nullable(),
  })
  .openapi('Release');

const wholeRelease = release.extend({ manifest: z.string() }).openapi('ReleaseWithManifest');

const newRelease = z
  .strictObject({
    artifact: sha256.openapi({ description: 'The digest of an artifact that is stored here' }),
    manifest: z
      .string()
      .min(1)
      .max(manifestLengthMax)
      .openapi({ description: 'JWS in its compact form, typ ota-manifest+jws, by a registered release key' }),
    product: product.optional().openapi({ description: 'Where it is said, the manifest must say the same' }),
    version: version.optional().openapi({ description: 'Where it is said, the manifest must say the same' }),
  })
  .openapi('NewRelease');

const revocation = z.strictObject({ reason: schemas.plainText(200).min(1) }).openapi('ReleaseRevocation');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/releases',
    operationId: 'listReleases',
    summary: 'Releases, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', release), ...otherwise },
  }),
  create: createRoute({
    method: 'post',
    path: '/releases',
    operationId: 'createRelease',
    summary: 'Publishes an artifact with the signed word about what it is good for',
    tags,
    request: { body: body(newRelease) },
    responses: { 201: answer('Published; it never changes', wholeRelease), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getRelease',
    summary: 'One release, with its manifest',
    tags,
    request: { params },
    responses: { 200: answer('The release', wholeRelease), ...otherwise },
  }),
  revoke: createRoute({
    method: 'post',
    path: `${path}/revoke`,
    operationId: 'revokeRelease',
    summary: 'Takes it out of use; rollouts of it stop telling devices',
    tags,
    request: { params, body: body(revocation) },
    responses: { 200: answer('As it is now', wholeRelease), ...otherwise },
  }),
};

export const releaseRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: releases.releaseFields,
        find: releases.listReleases,
        place: (row) => [row.release.id],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.create, async (c) => {
      const request = c.req.valid('json');
      const recorded = await releases.insertRelease(c.var.db, c.var.actor, await readRelease(c.var.db, request));
      if ('refused' in recorded) throw refusalOf(recorded);
      return c.json(presentWhole(recorded), 201);
    })
    .openapi(routes.get, async (c) => {
      const found = await releases.findRelease(c.var.db, c.req.valid('param').id);
      if (!found) throw notFound();
      return c.json(presentWhole(found), 200);
    })
    .openapi(routes.revoke, async (c) => {
      const { id } = c.req.valid('param');
      const { reason } = c.req.valid('json');
      const revoked = await releases.revokeRelease(c.var.db, c.var.actor, id, { reason, poke: rolloutPoke });
      const found = await releases.findRelease(c.var.db, id);
      if (!found) throw notFound();
      if (!revoked) throw new Problem('conflict', 'The release is revoked already.');
      c.var.tell({ outbox: true });
      return c.json(presentWhole(found), 200);
    });

/** The row that the manifest makes, when a key of ours that may has signed it, and it says what the request says. */
async function readRelease(db: Db, request: z.infer<typeof newRelease>): Promise<releases.NewRelease> {
  const { manifest, key } = await readSigned(db, request.manifest);
  const { artifact, expires } = manifest;
  const signed = { artifact: artifact.sha256, product: manifest.product, version: manifest.version };
  const others = (['artifact', 'product', 'version'] as const).flatMap((field): Fault[] =>
    request[field] === undefined || request[field] === signed[field]
      ? []
      : [{ pointer: `/${field}`, detail: `the manifest is about ${signed[field]}` }],
  );
  if (others.length > 0) throw refused('The manifest is about something else.', others);
  const { products } = key;
  if (products && !products.includes(manifest.product)) throw refused(`Its key may not sign for ${manifest.product}.`);
  if (Date.parse(expires) <= Date.now()) throw refused(`It expired at ${expires}.`);
  return {
    id: randomUUIDv7(),
    product: manifest.product,
    version: manifest.version,
    securityCounter: manifest.securityCounter,
    manifest: request.manifest,
    keyId: key.id,
    artifact: Buffer.from(artifact.sha256, 'hex'),
    size: artifact.size,
    artifactName: artifact.name,
    hardware: manifest.hardware,
    allowedFrom: manifest.allowedFrom ?? null,
    downgrade: manifest.downgrade ?? false,
    expiresAt: new Date(expires),
  };
}

async function readSigned(db: Db, jws: string) {
  try {
    const { payload, key } = await openManifest(jws, (id) => findReleaseKey(db, id));
    return { manifest: readManifest(payload), key };
  } catch (error) {
    if (error instanceof ManifestFault) throw refused(`It is not taken: ${error.message}.`);
    throw error;
  }
}

const refused = (detail: string, errors: Fault[] = [{ pointer: '/manifest', detail }]) =>
  new Problem('manifest-refused', detail, { errors });

function refusalOf(refusal: releases.ReleaseRefusal): Problem {
  switch (refusal.refused) {
    case 'artifact-unknown':
      return refused('There is no such artifact yet: store it first.', [
        { pointer: '/artifact', detail: 'nothing is stored under this digest' },
      ]);
    case 'artifact-size':
      return refused(`The artifact has ${refusal.size} bytes, and the manifest says otherwise.`);
    case 'counter':
      return refused(
        `Its securityCounter is below ${refusal.counter}, which devices may have. A way back is signed as one (downgrade).`,
      );
    case 'version':
      return new Problem('name-taken', 'The product has a release of this version.');
    default:
      return refused('Its key is revoked.');
  }
}

const present = ({ release: row, size }: releases.FoundRelease) => ({
  id: row.id,
  product: row.product,
  version: row.version,
  securityCounter: row.securityCounter,
  hardware: row.hardware,
  allowedFrom: row.allowedFrom,
  downgrade: row.downgrade,
  artifact: { sha256: Buffer.from(row.artifact).toString('hex'), size, name: row.artifactName },
  keyId: row.keyId,
  expiresAt: row.expiresAt.toISOString(),
  createdBy: row.createdBy,
  createdAt: row.createdAt.toISOString(),
  revokedAt: row.revokedAt?.toISOString() ?? null,
  revocationReason: row.revocationReason,
});

const presentWhole = (found: releases.FoundRelease) => ({ ...present(found), manifest: found.release.manifest });
