import { randomBytes, randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { listAuthorities } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import * as manufacturers from '../db/manufacturer-authorities.ts';
import { findTemplate } from '../db/templates.ts';
import { readManufacturerAuthority, readProof } from '../pki/manufacturer-authorities.ts';
import type { RouteDeps } from './app.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['manufacturer authorities'];
const path = '/manufacturer-authorities/{id}';
const params = z.object({ id: schemas.uuid });
const codeHours = 7 * 24;
const pem = z.string().min(1).max(32_768);

const authority = z
  .object({
    id: schemas.uuid,
    name: z.string(),
    template: schemas.templateName,
    claimId: schemas.uuid.openapi({ description: 'Its budget; revoked, it lets nobody new in and shuts nobody out' }),
    state: z.enum(['ACTIVE', 'RETIRED']),
    subject: z.string(),
    certificatePem: z.string(),
    fingerprintSha256: z.string(),
    notBefore: schemas.instant,
    notAfter: schemas.instant,
    createdBy: z.string(),
    createdAt: schemas.instant,
    retiredAt: schemas.instant.nullable(),
    devices: z.int().openapi({ description: 'How many devices live by a certificate of it, and not by one of ours' }),
  })
  .openapi('ManufacturerAuthority');

const code = z
  .object({
    code: z.string().openapi({ description: 'The common name of a certificate that the authority is to sign' }),
    expiresAt: schemas.instant,
  })
  .openapi('ManufacturerCode');

const newAuthority = z
  .strictObject({
    name: schemas.plainText(100).min(1),
    template: schemas.templateName.openapi({ description: 'One that names devices by their `manufacturer` fields' }),
    certificatePem: pem.openapi({ description: 'The root, in PEM' }),
    proofPem: pem.openapi({
      description: 'A certificate of it, in PEM, whose common name is a code that nobody has used',
    }),
    usesMax: z.int().min(1).max(1_000_000).default(1_000_000),
    ratePerMinute: z.int().min(1).max(100_000).default(600),
  })
  .openapi('NewManufacturerAuthority');

const routes = {
  code: createRoute({
    method: 'post',
    path: '/manufacturer-authorities/codes',
    operationId: 'createManufacturerCode',
    summary: 'A code for one registration, to be signed by the authority',
    tags,
    request: { body: { ...body(z.strictObject({})), required: false } },
    responses: { 201: answer('Good for one registration', code), ...otherwise },
  }),
  list: createRoute({
    method: 'get',
    path: '/manufacturer-authorities',
    operationId: 'listManufacturerAuthorities',
    summary: 'Authorities of manufacturers, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', authority), ...otherwise },
  }),
  create: createRoute({
    method: 'post',
    path: '/manufacturer-authorities',
    operationId: 'registerManufacturerAuthority',
    summary: 'Lets devices in by the certificates of their manufacturer, under a template',
    tags,
    request: { body: body(newAuthority) },
    responses: { 201: answer('Registered; gateways and doors trust it within seconds', authority), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getManufacturerAuthority',
    summary: 'One authority',
    tags,
    request: { params },
    responses: { 200: answer('The authority', authority), ...otherwise },
  }),
  retire: createRoute({
    method: 'post',
    path: `${path}/retire`,
    operationId: 'retireManufacturerAuthority',
    summary: 'Trusts it no more: nobody connects by its certificates any longer',
    description: `Connections that are open stay, and their devices are given certificates of ours. Those that are away, and have none
yet, are shut out: \`devices\` says how many have none.`,
    tags,
    request: { params },
    responses: { 200: answer('As it is now', authority), ...otherwise },
  }),
};

export const manufacturerAuthorityRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.code, async (c) => {
      const made = { code: randomBytes(32).toString('hex'), expiresAt: new Date(Date.now() + codeHours * 3_600_000) };
      if (!(await manufacturers.insertCode(c.var.db, c.var.actor, made))) {
        throw new Problem('conflict', `There are ${manufacturers.codesMax} codes that nobody has used yet.`);
      }
      return c.json({ ...made, expiresAt: made.expiresAt.toISOString() }, 201);
    })
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: manufacturers.manufacturerAuthorityFields,
        find: manufacturers.listManufacturerAuthorities,
        place: (row) => [row.id],
      });
      return c.json({ items: await Promise.all(rows.map((row) => present(c.var.db, row))) }, 200);
    })
    .openapi(routes.create, async (c) => {
      const { certificatePem, proofPem, template, ...request } = c.req.valid('json');
      const ours = (await listAuthorities(c.var.db)).map((row) => row.certificatePem);
      const read = readManufacturerAuthority(certificatePem, { ours });
      if ('fault' in read) throw refused('/certificatePem', read.fault);
      const proof = readProof(proofPem, read);
      if ('fault' in proof) throw refused('/proofPem', proof.fault);
      await judgeTemplate(c.var.db, template);
      const { name, ...budget } = request;
      const { certificate: _, ...columns } = read;
      const bounds = { deviceNames: null, spkiSha256: null, expiresAt: read.notAfter };
      const row = await manufacturers.registerManufacturerAuthority(c.var.db, c.var.actor, {
        code: proof.code,
        authority: { id: randomUUIDv7(), name, ...columns },
        claim: { id: randomUUIDv7(), template, ...budget, ...bounds },
      });
      if (typeof row === 'string') throw unregistered[row]();
      c.var.tell({ trust: true });
      return c.json(await present(c.var.db, row), 201);
    })
    .openapi(routes.get, async (c) => {
      const row = await manufacturers.findManufacturerAuthority(c.var.db, c.req.valid('param').id);
      if (!row) throw notFound();
      return c.json(await present(c.var.db, row), 200);
    })
    .openapi(routes.retire, async (c) => {
      const { id } = c.req.valid('param');
      const isRetired = await manufacturers.retireManufacturerAuthority(c.var.db, c.var.actor, id);
      const row = await manufacturers.findManufacturerAuthority(c.var.db, id);
      if (!row) throw notFound();
      if (!isRetired) throw new Problem('conflict', 'The authority is retired already.');
      c.var.tell({ trust: true });
      return c.json(await present(c.var.db, row), 200);
    });

/** Its devices say nothing of themselves when they connect: what names them stands in their certificates. */
async function judgeTemplate(db: Db, name: string): Promise<void> {
  const template = await findTemplate(db, name);
  if (!template) throw unregistered.template();
  const { namePattern, parameters } = template.definition;
  if (parameters.length === 0 && namePattern.includes('${manufacturer.')) return;
  const detail = 'it must have no parameters, and name devices by a `manufacturer` field';
  throw new Problem('invalid', 'The template cannot name devices by their certificates.', {
    errors: [{ pointer: '/template', detail }],
  });
}

const refused = (pointer: string, detail: string) =>
  new Problem('authority-refused', `The authority is not taken: ${detail}.`, { errors: [{ pointer, detail }] });

const unregistered: Record<manufacturers.Unregistered, () => Problem> = {
  registered: () => new Problem('conflict', 'This authority is registered already.'),
  'too-many': () =>
    new Problem('conflict', `There are ${manufacturers.manufacturerAuthoritiesMax} active ones already.`),
  code: () => refused('/proofPem', 'its common name is no code, or one that is over or was used'),
  template: () =>
    new Problem('invalid', 'The authority names a template that does not exist.', {
      errors: [{ pointer: '/template', detail: 'there is no such template' }],
    }),
};

const present = async (db: Db, row: manufacturers.ManufacturerAuthorityRow) => ({
  id: row.id,
  name: row.name,
  template: row.template,
  claimId: row.claimId,
  state: row.state,
  subject: row.subject,
  certificatePem: row.certificatePem,
  fingerprintSha256: Buffer.from(row.fingerprint).toString('hex'),
  notBefore: row.notBefore.toISOString(),
  notAfter: row.notAfter.toISOString(),
  createdBy: row.createdBy,
  createdAt: row.createdAt.toISOString(),
  retiredAt: row.retiredAt?.toISOString() ?? null,
  devices: await manufacturers.countAdoptedUnder(db, row.id),
});
