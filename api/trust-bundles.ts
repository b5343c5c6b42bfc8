import { createRoute, z } from '@hono/zod-openapi';
import { countAcknowledged, findTrustBundle } from '../db/trust-bundles.ts';
import * as schemas from './schemas.ts';
import { answer, notFound, otherwise } from './schemas.ts';

const trustBundle = z
  .object({
    version: z.int(),
    certificatesPem: z.string().openapi({ description: 'The roots that are trusted, the oldest first' }),
    sha256: z.string().openapi({ description: 'Of these very bytes' }),
    publishedAt: schemas.instant,
    devices: z.int().openapi({ description: 'Devices with a living certificate' }),
    acknowledged: z.int().openapi({ description: 'Those of them that have said that they trust these roots' }),
    jobId: schemas.uuid.nullable().openapi({ description: 'By which devices are told; null for what they came with' }),
  })
  .openapi('TrustBundle');

const get = createRoute({
  method: 'get',
  path: '/trust-bundle',
  operationId: 'getTrustBundle',
  summary: 'The roots that devices are to trust, and how many have acknowledged them',
  tags: ['authorities'],
  responses: { 200: answer('The latest version', trustBundle), ...otherwise },
});

export const trustBundleRoutes = () =>
  schemas.createRouter().openapi(get, async (c) => {
    const row = await findTrustBundle(c.var.db);
    if (!row) throw notFound();
    const { version, certificatesPem, jobId, createdAt } = row;
    const { devices, acknowledged } = await countAcknowledged(c.var.db, certificatesPem);
    const sha256 = Buffer.from(row.sha256).toString('hex');
    const publishedAt = createdAt.toISOString();
    return c.json({ version, certificatesPem, sha256, publishedAt, devices, acknowledged, jobId }, 200);
  });
