import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { artifactFields, findArtifact, insertArtifact, listArtifacts, type ArtifactRow } from '../db/artifacts.ts';
import { checkContent, ContentFault, type Store } from '../files/store.ts';
import type { Deps, RouteDeps } from './app.ts';
import { sha256 } from './manifests.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['artifacts'];
const path = '/artifacts/{sha256}';
const params = z.object({ sha256 });
const contentType = 'application/octet-stream';

const artifact = z
  .object({ sha256, size: z.int(), createdBy: z.string(), createdAt: schemas.instant })
  .openapi('Artifact');

const routes = {
  store: createRoute({
    method: 'put',
    path,
    operationId: 'storeArtifact',
    summary: 'Stores content under its digest, streamed; the same again changes nothing',
    tags,
    request: {
      params,
      body: { content: { [contentType]: { schema: { type: 'string', format: 'binary' } } }, required: true },
    },
    responses: { 200: answer('It was here already', artifact), 201: answer('Stored', artifact), ...otherwise },
  }),
  list: createRoute({
    method: 'get',
    path: '/artifacts',
    operationId: 'listArtifacts',
    summary: 'Artifacts, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', artifact), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getArtifact',
    summary: 'What is known of one artifact; its bytes are for devices',
    tags,
    request: { params },
    responses: { 200: answer('The artifact', artifact), ...otherwise },
  }),
};

/**
 * The one route whose body is not read into memory: it stands before those that have theirs read, and before idempotency
 * keys, which it has no use for. Content that is not what its path and length announce is refused, and nothing of it stays.
 */
export const artifactUploads = ({ db, store, limits }: Pick<Deps, 'db' | 'store' | 'limits'>) =>
  schemas.createRouter().openapi(routes.store, async (c) => {
    const { sha256: digest } = c.req.valid('param');
    await takeIn(c, store, digest, limits.artifactBytes);
    const kept = await store.find(digest);
    if (!kept) throw new Error('the store does not have what it has taken');
    const { row, isNew } = await insertArtifact(db, c.var.actor, { sha256: digest, size: kept.size });
    return c.json(present(row), isNew ? 201 : 200);
  });

async function takeIn(c: Context, store: Store, digest: string, bytesMax: number): Promise<void> {
  if (c.req.header('content-type')?.toLowerCase() !== contentType) {
    throw new Problem('unsupported-media-type', `The content must be sent as ${contentType}.`);
  }
  const length = c.req.header('content-length');
  const size = length === undefined ? undefined : Number(length);
  if (size !== undefined && size > bytesMax) throw tooLarge(bytesMax);
  const content = checkContent(c.req.raw.body ?? empty(), { sha256: digest, size, bytesMax });
  try {
    if (await store.find(digest)) await exhaust(content);
    else await store.write(digest, content);
  } catch (error) {
    throw judge(error, c.req.raw.signal, bytesMax);
  }
}

/** What is here already is not written again, but what comes is still held against what was announced. */
async function exhaust(content: AsyncGenerator<Uint8Array, void, undefined>): Promise<void> {
  while (!(await content.next()).done);
}

async function* empty(): AsyncGenerator<Uint8Array, void, undefined> {}

/** A store may wrap what went wrong with the content it was given. */
function judge(error: unknown, signal: AbortSignal, bytesMax: number): unknown {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (!(cause instanceof ContentFault)) continue;
    if (cause.fault === 'too-large') return tooLarge(bytesMax);
    return new Problem('content-refused', `Nothing was stored: ${cause.message}.`);
  }
  return signal.aborted ? new Problem('upload-interrupted', 'Nothing was stored: the content broke off.') : error;
}

const tooLarge = (bytesMax: number) => new Problem('too-large', `An artifact may have ${bytesMax} bytes at most.`);

export const artifactRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: artifactFields,
        find: listArtifacts,
        place: (row) => [row.createdAt.toISOString(), hex(row.sha256)],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.get, async (c) => {
      const row = await findArtifact(c.var.db, c.req.valid('param').sha256);
      if (!row) throw notFound('under this digest');
      return c.json(present(row), 200);
    });

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

const present = (row: ArtifactRow) => ({
  sha256: hex(row.sha256),
  size: row.size,
  createdBy: row.createdBy,
  createdAt: row.createdAt.toISOString(),
});
