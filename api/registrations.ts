import { createRoute, z } from '@hono/zod-openapi';
import * as registrations from '../db/registrations.ts';
import { registrationStates } from '../db/registration-schema.ts';
import { registerDevicesId } from '../workflows/register-devices.ts';
import type { RouteDeps } from './app.ts';
import { lifecycleOf } from './lifecycles.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['registrations'];
const path = '/registrations/{id}';
const params = z.object({ id: schemas.uuid });
const lines = 'application/x-ndjson';

const registration = z
  .object({
    id: schemas.uuid,
    format: z.enum(['csv', 'ndjson']),
    state: z.enum(registrationStates).exclude(['UPLOADING']),
    size: z.int(),
    sha256: z.string(),
    bytesRead: z.int(),
    registered: z.int(),
    refused: z.int().openapi({ description: 'Lines that registered nothing: the report says why, of each' }),
    createdBy: z.string(),
    createdAt: schemas.instant,
    finishedAt: schemas.instant.nullable(),
  })
  .openapi('Registration');
const begun = registration.extend({ lifecycle: schemas.lifecycle }).openapi('BegunRegistration');

const fault = z
  .object({
    line: z.int().openapi({ description: 'Of the file, counted from 1: where what is refused begins' }),
    name: schemas.deviceName.nullable().openapi({ description: 'Null where the line has none that could be one' }),
    code: z.string().openapi({ example: 'name-taken' }),
    detail: z.string(),
  })
  .openapi('RegistrationFault');

const file = { schema: { type: 'string' as const, format: 'binary' } };

export const createRegistration = createRoute({
  method: 'post',
  path: '/registrations',
  operationId: 'registerDevices',
  summary: 'Registers the devices of a file ahead of their enrolment, streamed',
  description: `CSV (RFC 4180) with a header, or newline-delimited JSON; UTF-8, a million lines at most. Columns, or fields: \`name\`;
\`serial\`, which becomes the attribute \`serial\`; \`certificate\` (PEM, or DER in base64); \`fingerprint\` (SHA-256 of the public key's
SubjectPublicKeyInfo, in hexadecimal digits); \`groups\`, with \`;\` between them or as a list; \`attributes.<name>\`, or an object
\`attributes\`. Lines that break a rule are in the report, and the others are registered all the same.`,
  tags,
  request: { body: { content: { 'text/csv': file, [lines]: file }, required: true } },
  responses: { 202: answer('The file is here, and is being read', begun), ...otherwise },
});

const routes = {
  list: createRoute({
    method: 'get',
    path: '/registrations',
    operationId: 'listRegistrations',
    summary: 'Files, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', registration), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getRegistration',
    summary: 'How far a file was read, and what came of it',
    tags,
    request: { params },
    responses: { 200: answer('The registration', begun), ...otherwise },
  }),
  report: createRoute({
    method: 'get',
    path: `${path}/report`,
    operationId: 'getRegistrationReport',
    summary: 'Why lines registered nothing, in the order of the file, as newline-delimited JSON',
    tags,
    request: { params, query: listQuery.omit({ filter: true }).extend({ limit: reportLimit() }) },
    responses: {
      200: {
        description: 'A fault on each line; `Link` leads to the next page',
        content: { [lines]: { schema: fault } },
        headers: z.object({ link: z.string().optional() }),
      },
      ...otherwise,
    },
  }),
  cancel: createRoute({
    method: 'post',
    path: `${path}/cancel`,
    operationId: 'cancelRegistration',
    summary: 'Reads no further; what was registered stays',
    tags,
    request: { params },
    responses: { 200: answer('Canceled', registration), ...otherwise },
  }),
};

function reportLimit() {
  return z.coerce.number().int().min(1).max(10_000).default(1_000);
}

export const registrationRoutes = ({ findPage, ...temporal }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: registrations.registrationFields,
        find: registrations.listRegistrations,
        place: (row) => [row.id],
      });
      return c.json({ items: rows.map(presentRegistration) }, 200);
    })
    .openapi(routes.get, async (c) => {
      const { id } = c.req.valid('param');
      const row = await registrations.findRegistration(c.var.db, id);
      if (!row) throw notFound();
      const lifecycle = lifecycleOf(temporal, registerDevicesId(id));
      return c.json({ ...presentRegistration(row), lifecycle }, 200);
    })
    .openapi(routes.report, async (c) => {
      const { id } = c.req.valid('param');
      if (!(await registrations.findRegistration(c.var.db, id))) throw notFound();
      const rows = await findPage(c, c.req.valid('query'), {
        fields: {},
        find: (db, page: registrations.FaultPage) => registrations.listFaults(db, id, page),
        place: (row): [string] => [String(row.line)],
      });
      const text = rows
        .map(({ line, name, code, detail }) => `${JSON.stringify({ line, name, code, detail })}\n`)
        .join('');
      // The framework has types for answers in JSON only; this one is what the route describes.
      return c.body(text, 200, { 'Content-Type': lines }) as never;
    })
    .openapi(routes.cancel, async (c) => {
      const { id } = c.req.valid('param');
      const row = await registrations.cancelRegistration(c.var.db, c.var.actor, id);
      if (row) return c.json(presentRegistration(row), 200);
      throw (await registrations.findRegistration(c.var.db, id))
        ? new Problem('conflict', 'The file was read to its end, or canceled, before.')
        : notFound();
    });

export const presentRegistration = (row: registrations.RegistrationRow) => ({
  id: row.id,
  format: row.format,
  // One that is not here as a whole is shown to nobody.
  state: row.state as Exclude<typeof row.state, 'UPLOADING'>,
  size: row.size ?? 0,
  sha256: Buffer.from(row.sha256 ?? []).toString('hex'),
  bytesRead: row.state === 'FINISHED' ? (row.size ?? 0) : row.byteOffset,
  registered: row.registered,
  refused: row.refused,
  createdBy: row.createdBy,
  createdAt: row.createdAt.toISOString(),
  finishedAt: row.finishedAt?.toISOString() ?? null,
});
