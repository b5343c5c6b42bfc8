import { createPublicKey, randomBytes, randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { claimFields, findClaim, insertClaim, listClaims, revokeClaim, type ClaimRow } from '../db/claims.ts';
import { AuthorityEnding, type Authority, type IssuedCertificate, type IssueRequest } from '../pki/authority.ts';
import { makeKeyPair } from '../pki/keys.ts';
import type { Api, RouteDeps } from './app.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';
import { newClaim, sha256, tokenSeconds, type NewClaim } from './new-claims.ts';
import { mintClaimToken } from '../pki/claim-tokens.ts';

const tags = ['claims'];
const hourMs = 3_600_000;

const claim = z
  .object({
    id: schemas.uuid,
    kind: z.enum(['certificate', 'token', 'manufacturer']),
    template: schemas.templateName,
    certificateId: schemas.certificateId.nullable().openapi({ description: 'Of a claim that is a certificate' }),
    deviceNames: z.array(schemas.deviceName).nullable().openapi({ description: 'The only devices that it is for' }),
    keySha256: sha256.nullable().openapi({ description: 'Of the only public key that it is for' }),
    uses: z.int(),
    usesMax: z.int(),
    ratePerMinute: z.int(),
    expiresAt: schemas.instant,
    revokedAt: schemas.instant.nullable(),
    createdAt: schemas.instant,
  })
  .openapi('Claim');

const createdClaim = claim
  .extend({
    certificate: z
      .object({
        certificatePem: z.string().openapi({ description: 'The chain, the claim certificate first' }),
        privateKey: z.string().optional().openapi({
          description: 'PKCS #8 in PEM. In this answer only: a repeat of the request is answered without it',
        }),
      })
      .optional(),
    token: z.string().optional().openapi({
      description: 'What a device shows. In this answer only: a repeat of the request is answered without it',
    }),
  })
  .openapi('CreatedClaim');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/claims',
    operationId: 'listClaims',
    summary: 'Claims, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', claim), ...otherwise },
  }),
  create: createRoute({
    method: 'post',
    path: '/claims',
    operationId: 'createClaim',
    summary: 'Permits a number of devices to enrol, with a certificate or a token',
    tags,
    request: { body: body(newClaim) },
    responses: { 201: answer('Created, with its key or its token', createdClaim), ...otherwise },
  }),
  revoke: createRoute({
    method: 'delete',
    path: '/claims/{id}',
    operationId: 'revokeClaim',
    summary: 'Revokes the claim and its certificate; what enrolled with it stays',
    tags,
    request: { params: z.object({ id: schemas.uuid }) },
    responses: { 204: { description: 'Revoked' }, ...otherwise },
  }),
};

export const claimRoutes = ({ findPage, authority }: RouteDeps) => {
  async function createCertificate(c: Context<Api>, request: NewClaim) {
    const id = randomUUIDv7();
    const lifetimeMs = request.expiresInHours * hourMs;
    const { privateKeyPem, publicKeyPem } = makeKeyPair();
    const publicKey = createPublicKey(publicKeyPem).export({ type: 'spki', format: 'der' });
    const issued = await issue(authority, { profile: 'claim', subject: { claim: id }, publicKey, lifetimeMs });
    const row = await insertClaim(c.var.db, c.var.actor, rowOf(request, id, lifetimeMs), {
      certificate: certificateRow(issued, id),
    });
    if (!row) throw unknownTemplate();
    const certificate = { certificatePem: issued.chainPem };
    const kept = { ...present(row), certificate };
    return { kept, secret: { certificate: { ...certificate, privateKey: privateKeyPem } } };
  }

  async function createToken(c: Context<Api>, request: NewClaim) {
    const id = randomUUIDv7();
    const { token, tokenHash } = mintClaimToken(id);
    const claimed = rowOf(request, id, tokenSeconds(request) * 1_000);
    const row = await insertClaim(c.var.db, c.var.actor, claimed, { tokenHash });
    if (!row) throw unknownTemplate();
    return { kept: present(row), secret: { token } };
  }

  return schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: claimFields,
        find: listClaims,
        place: (row) => [row.id],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.create, async (c) => {
      const request = c.req.valid('json');
      const { kept, secret } = await (request.kind === 'token'
        ? createToken(c, request)
        : createCertificate(c, request));
      c.set('kept', kept);
      return c.json({ ...kept, ...secret }, 201);
    })
    .openapi(routes.revoke, async (c) => {
      const { id } = c.req.valid('param');
      if (!(await revokeClaim(c.var.db, c.var.actor, id))) {
        throw (await findClaim(c.var.db, id)) ? new Problem('conflict', 'The claim is revoked already.') : notFound();
      }
      c.var.tell({ feed: true });
      return c.body(null, 204);
    });
};

const rowOf = (
  { template, usesMax, ratePerMinute, deviceNames, keySha256 }: NewClaim,
  id: string,
  lifetimeMs: number,
) => ({
  id,
  template,
  usesMax,
  ratePerMinute,
  deviceNames: deviceNames?.map((name) => name.toLowerCase()) ?? null,
  spkiSha256: keySha256 === undefined ? null : Buffer.from(keySha256, 'hex'),
  expiresAt: new Date(Date.now() + lifetimeMs),
});

const present = (row: ClaimRow) => ({
  id: row.id,
  kind: row.kind,
  deviceNames: row.deviceNames,
  keySha256: row.spkiSha256 && Buffer.from(row.spkiSha256).toString('hex'),
  template: row.template,
  certificateId: row.certificateId,
  uses: row.uses,
  usesMax: row.usesMax,
  ratePerMinute: row.ratePerMinute,
  expiresAt: row.expiresAt.toISOString(),
  revokedAt: row.revokedAt?.toISOString() ?? null,
  createdAt: row.createdAt.toISOString(),
});

const unknownTemplate = () =>
  new Problem('invalid', 'The claim names a template that does not exist.', {
    errors: [{ pointer: '/template', detail: 'there is no such template' }],
  });

/** A certificate under a fresh id. An authority that ends too soon is our operator's to replace, and no fault of the request. */
export async function issue(
  authority: Authority,
  request: Omit<Extract<IssueRequest, { profile: 'claim' }>, 'certificateId'> | ServiceRequest,
): Promise<IssuedCertificate> {
  try {
    return await authority.issue({ ...request, certificateId: randomBytes(32).toString('hex') });
  } catch (error) {
    if (error instanceof AuthorityEnding) {
      throw new Problem('unavailable', 'The issuing authority ends too soon to issue from it.');
    }
    throw error;
  }
}

type ServiceRequest = Omit<Extract<IssueRequest, { profile: 'service' }>, 'certificateId'>;

/** The row of a certificate that is good as soon as it is issued. */
export const certificateRow = (issued: IssuedCertificate, subject: string) => ({
  id: issued.certificateId,
  subject,
  authorityId: issued.authorityId,
  serial: issued.serial,
  fingerprint: issued.fingerprint,
  spkiSha256: issued.spkiSha256,
  pem: issued.pem,
  notBefore: issued.notBefore,
  notAfter: issued.notAfter,
});
