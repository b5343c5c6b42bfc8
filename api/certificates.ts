import { createRoute, z } from '@hono/zod-openapi';
import { certificateFields, findCertificate, listCertificates } from '../db/certificates.ts';
import type { RouteDeps } from './app.ts';
import * as schemas from './schemas.ts';
import { answer, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['certificates'];

export const certificate = z
  .object({
    id: schemas.certificateId,
    kind: z.enum(['device', 'claim', 'service']),
    device: z.string().nullable(),
    subject: z.string(),
    state: z.enum(['PENDING_ACTIVATION', 'ACTIVE', 'REVOKED']),
    revocationReason: z.string().nullable(),
    authorityId: schemas.uuid,
    serial: z.string(),
    fingerprintSha256: z.string(),
    notBefore: schemas.instant,
    notAfter: schemas.instant,
    issuedAt: schemas.instant,
    activatedAt: schemas.instant.nullable(),
    revokedAt: schemas.instant.nullable(),
  })
  .openapi('Certificate');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/certificates',
    operationId: 'listCertificates',
    summary: 'Certificates, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', certificate), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path: '/certificates/{id}',
    operationId: 'getCertificate',
    summary: 'One certificate, with its PEM',
    tags,
    request: { params: z.object({ id: schemas.certificateId }) },
    responses: {
      200: answer('The certificate', certificate.extend({ pem: z.string() }).openapi('CertificateWithPem')),
      ...otherwise,
    },
  }),
};

export const certificateRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: certificateFields,
        find: listCertificates,
        place: (row) => [row.certificate.issuedAt.toISOString(), row.certificate.id],
      });
      return c.json({ items: rows.map(presentCertificate) }, 200);
    })
    .openapi(routes.get, async (c) => {
      const row = await findCertificate(c.var.db, c.req.valid('param').id);
      if (!row) throw notFound();
      return c.json({ ...presentCertificate(row), pem: row.certificate.pem }, 200);
    });

type Row = NonNullable<Awaited<ReturnType<typeof findCertificate>>>;

export const presentCertificate = ({ certificate: row, device }: Row) => ({
  id: row.id,
  kind: row.kind,
  device,
  subject: row.subject,
  state: row.state,
  revocationReason: row.revocationReason,
  authorityId: row.authorityId,
  serial: row.serial,
  fingerprintSha256: Buffer.from(row.fingerprint).toString('hex'),
  notBefore: row.notBefore.toISOString(),
  notAfter: row.notAfter.toISOString(),
  issuedAt: row.issuedAt.toISOString(),
  activatedAt: row.activatedAt?.toISOString() ?? null,
  revokedAt: row.revokedAt?.toISOString() ?? null,
});
