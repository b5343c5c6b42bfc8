import { createRoute, z } from '@hono/zod-openapi';
import { askRevocation } from '../db/revocations.ts';
import { certificateFields, findCertificate, listCertificates } from '../db/certificates.ts';
import { revocationReasons, type RevocationReason } from '../pki/crl.ts';
import { revokeCertificateId } from '../workflows/revoke-certificate.ts';
import type { RouteDeps } from './app.ts';
import { lifecycleOf } from './lifecycles.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['certificates'];

export const certificate = z
  .object({
    id: schemas.certificateId,
    kind: z.enum(['device', 'claim', 'service']),
    device: z.string().nullable(),
    subject: z.string(),
    state: z.enum(['PENDING_ACTIVATION', 'ACTIVE', 'REVOKED']),
    revocationReason: z.string().nullable(),
    authorityId: schemas.uuid.nullable(),
    manufacturerAuthorityId: schemas.uuid.nullable().openapi({
      description: 'Of a certificate that a device brought along, in place of an authority of ours',
    }),
    serial: z.string(),
    fingerprintSha256: z.string(),
    notBefore: schemas.instant,
    notAfter: schemas.instant,
    issuedAt: schemas.instant,
    activatedAt: schemas.instant.nullable(),
    revokedAt: schemas.instant.nullable(),
  })
  .openapi('Certificate');

// The names of the table are its keys.
const reasonNames = Object.keys(revocationReasons) as [RevocationReason, ...RevocationReason[]];

export const revocationReason = z.enum(reasonNames).openapi('RevocationReason', {
  description: 'Of RFC 5280. To shut a device out for a while, block it: a revocation is for good',
});

const revocation = z.strictObject({ reason: revocationReason }).openapi('Revocation');
const revokedCertificate = certificate.extend({ lifecycle: schemas.lifecycle }).openapi('RevokedCertificate');

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
  revoke: createRoute({
    method: 'post',
    path: '/certificates/{id}/revoke',
    operationId: 'revokeCertificate',
    summary: 'Ends a certificate at once and for good: its sessions are cut, and the revocation list tells of it',
    description: `Denied when this is answered. Its lifecycle sees to it that sessions are cut, publishes the list, waits until
every gateway has confirmed, and records the times in the audit. Asking again gives the same answer; the first reason stands.`,
    tags,
    request: { params: z.object({ id: schemas.certificateId }), body: body(revocation) },
    responses: { 202: answer('Revoked; its lifecycle proves it', revokedCertificate), ...otherwise },
  }),
};

export const certificateRoutes = ({ findPage, ...temporal }: RouteDeps) =>
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
    })
    .openapi(routes.revoke, async (c) => {
      const { id } = c.req.valid('param');
      const workflow = { id: revokeCertificateId(id), name: 'revokeCertificate' };
      const { reason } = c.req.valid('json');
      if (!(await askRevocation(c.var.db, c.var.actor, { certificateId: id, reason, workflow }))) throw notFound();
      c.var.tell({ feed: true });
      const row = await findCertificate(c.var.db, id);
      if (!row) throw notFound();
      return c.json({ ...presentCertificate(row), lifecycle: lifecycleOf(temporal, workflow.id) }, 202);
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
  manufacturerAuthorityId: row.manufacturerAuthorityId,
  serial: row.serial,
  fingerprintSha256: Buffer.from(row.fingerprint).toString('hex'),
  notBefore: row.notBefore.toISOString(),
  notAfter: row.notAfter.toISOString(),
  issuedAt: row.issuedAt.toISOString(),
  activatedAt: row.activatedAt?.toISOString() ?? null,
  revokedAt: row.revokedAt?.toISOString() ?? null,
});
