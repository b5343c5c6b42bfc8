import { randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { certificateFields, listCertificates, type CertificatePage } from '../db/certificates.ts';
import type { Db } from '../db/client.ts';
import { blockDevice, unblockDevice } from '../db/blocks.ts';
import * as devices from '../db/devices.ts';
import { listGroupsOf } from '../db/group-members.ts';
import { readSoftware } from '../db/software.ts';
import type { Software } from '../db/software-changes.ts';
import { findDeviceFields } from '../db/targets.ts';
import type { RouteDeps } from './app.ts';
import { certificate, presentCertificate } from './certificates.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['devices'];
const path = '/devices/{name}';
const params = z.object({ name: schemas.deviceName });

export const device = z
  .object({
    id: schemas.uuid,
    name: schemas.deviceName,
    template: z.string().nullable(),
    state: z.enum(['REGISTERED', 'ACTIVE', 'BLOCKED']),
    attributes: schemas.attributes,
    createdAt: schemas.instant,
    updatedAt: schemas.instant,
    decommissionedAt: schemas.instant
      .nullable()
      .openapi({ description: 'When it left the fleet: it is blocked for good, and its name stays taken' }),
  })
  .openapi('Device');

const presence = z
  .object({
    connected: z.boolean(),
    clientId: z.string(),
    version: z.int(),
    reason: z.string().nullable(),
    changedAt: schemas.instant,
  })
  .openapi('Presence');

const wholeDevice = device
  .extend({
    presence: presence.nullable().openapi({ description: 'Null when the device was never connected' }),
    certificates: z.record(z.string(), z.int()).openapi({ description: 'How many there are by state' }),
    groups: z.array(schemas.groupName).openapi({ description: 'The static groups that it is in' }),
    software: z
      .record(z.string(), z.object({ version: z.string(), reportedAt: schemas.instant }))
      .openapi({ description: 'What it says that it runs, by product' }),
  })
  .openapi('DeviceWithPresence');

const newDevice = z
  .strictObject({ name: schemas.deviceName, attributes: schemas.attributes.default({}) })
  .openapi('NewDevice');
const changes = z
  .strictObject({ attributes: z.record(schemas.attributeName, schemas.attributeValue.nullable()) })
  .openapi('DeviceChanges', { description: 'A merge patch (RFC 7396): null removes an attribute' });
const blocking = z.strictObject({ reason: schemas.plainText(200).optional() }).openapi('Blocking');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/devices',
    operationId: 'listDevices',
    summary: 'Devices by name',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('By name', device), ...otherwise },
  }),
  register: createRoute({
    method: 'post',
    path: '/devices',
    operationId: 'registerDevice',
    summary: 'Registers a device ahead of its enrolment',
    tags,
    request: { body: body(newDevice) },
    responses: { 201: answer('Registered', device), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getDevice',
    summary: 'One device: its presence, certificates, groups and what it runs',
    tags,
    request: { params },
    responses: { 200: answer('The device', wholeDevice), ...otherwise },
  }),
  change: createRoute({
    method: 'patch',
    path,
    operationId: 'changeDevice',
    summary: 'Sets and removes attributes',
    tags,
    request: { params, body: body(changes) },
    responses: { 200: answer('As it is now', device), ...otherwise },
  }),
  block: createRoute({
    method: 'post',
    path: `${path}/block`,
    operationId: 'blockDevice',
    summary:
      'Closes its sessions and lets it in no more; its name and keys cannot enrol, whatever becomes of the device',
    tags,
    request: { params, body: { ...body(blocking), required: false } },
    responses: { 200: answer('Blocked', device), ...otherwise },
  }),
  unblock: createRoute({
    method: 'post',
    path: `${path}/unblock`,
    operationId: 'unblockDevice',
    summary: 'Takes the block of a name and its keys away, also when the device is gone',
    tags,
    request: { params },
    responses: {
      200: answer('Let in again', device),
      204: { description: 'There is no such device any more; its name and keys may enrol again' },
      ...otherwise,
    },
  }),
  certificates: createRoute({
    method: 'get',
    path: `${path}/certificates`,
    operationId: 'listDeviceCertificates',
    summary: 'Certificates of one device',
    tags,
    request: { params, query: listQuery },
    responses: { 200: listOf('The youngest first', certificate), ...otherwise },
  }),
};

export const deviceRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: findDeviceFields,
        find: devices.listDevices,
        place: (row) => [row.name.toLowerCase()],
      });
      return c.json({ items: rows.map(presentDevice) }, 200);
    })
    .openapi(routes.register, async (c) => {
      const request = c.req.valid('json');
      const row = await devices.registerAhead(c.var.db, c.var.actor, { id: randomUUIDv7(), ...request });
      if (!row) throw nameTaken();
      return c.json(presentDevice(row), 201);
    })
    .openapi(routes.get, async (c) => {
      const found = await devices.findDevice(c.var.db, c.req.valid('param').name);
      if (!found) throw notFound();
      const { id } = found.device;
      const certificates = await devices.countCertificates(c.var.db, id);
      const groups = await listGroupsOf(c.var.db, id);
      const software = presentSoftware((await readSoftware(c.var.db, [id])).get(id));
      const whole = { presence: presentPresence(found.presence), certificates, groups, software };
      return c.json({ ...presentDevice(found.device), ...whole }, 200);
    })
    .openapi(routes.change, async (c) => {
      const entries = Object.entries(c.req.valid('json').attributes);
      const row = await devices.changeAttributes(c.var.db, c.var.actor, c.req.valid('param').name, {
        set: Object.fromEntries(entries.flatMap(([key, value]) => (value === null ? [] : [[key, value]]))),
        remove: entries.flatMap(([key, value]) => (value === null ? [key] : [])),
        judge: judgeAttributes,
      });
      if (!row) throw notFound();
      return c.json(presentDevice(row), 200);
    })
    .openapi(routes.block, async (c) => {
      const { name } = c.req.valid('param');
      const row = await blockDevice(c.var.db, c.var.actor, name, c.req.valid('json').reason);
      if (!row)
        throw (await devices.findDevice(c.var.db, name)) ? conflict('The device is blocked already.') : notFound();
      c.var.tell({ feed: true });
      return c.json(presentDevice(row), 200);
    })
    .openapi(routes.unblock, async (c) => {
      const { name } = c.req.valid('param');
      const unblocked = await unblockDevice(c.var.db, c.var.actor, name);
      if (!unblocked) throw await whyNotUnblocked(c.var.db, name);
      c.var.tell({ feed: true });
      return unblocked.row ? c.json(presentDevice(unblocked.row), 200) : c.body(null, 204);
    })
    .openapi(routes.certificates, async (c) => {
      const found = await devices.findDevice(c.var.db, c.req.valid('param').name);
      if (!found) throw notFound();
      const rows = await findPage(c, c.req.valid('query'), {
        fields: certificateFields,
        find: (db, page: CertificatePage) => listCertificates(db, page, found.device.id),
        place: (row) => [row.certificate.issuedAt.toISOString(), row.certificate.id],
      });
      return c.json({ items: rows.map(presentCertificate) }, 200);
    });

async function whyNotUnblocked(db: Db, name: string): Promise<Problem> {
  const found = await devices.findDevice(db, name);
  if (!found) return notFound();
  const { decommissionedAt } = found.device;
  return conflict(decommissionedAt ? 'The device was decommissioned, for good.' : 'The device is not blocked.');
}

export const presentDevice = ({ createdAt, updatedAt, decommissionedAt, ...row }: devices.DeviceRow) => ({
  ...row,
  createdAt: createdAt.toISOString(),
  updatedAt: updatedAt.toISOString(),
  decommissionedAt: decommissionedAt?.toISOString() ?? null,
});

type FoundDevice = NonNullable<Awaited<ReturnType<typeof devices.findDevice>>>;

const presentPresence = (row: FoundDevice['presence']) =>
  row && {
    connected: row.connected,
    clientId: row.clientId,
    version: row.version,
    reason: row.reason,
    changedAt: row.changedAt.toISOString(),
  };

const presentSoftware = (software?: Software) =>
  Object.fromEntries(
    [...(software?.products ?? [])].map(([product, { version, reportedAt }]) => [
      product,
      { version, reportedAt: reportedAt.toISOString() },
    ]),
  );

function judgeAttributes(attributes: devices.Attributes): void {
  const judged = schemas.attributes.safeParse(attributes);
  if (judged.success) return;
  const errors = judged.error.issues.map(({ path: at, message }) => ({
    pointer: schemas.pointerTo(['attributes', ...at]),
    detail: message,
  }));
  throw new Problem('invalid', 'The device would have attributes that break a rule.', { errors });
}

const conflict = (detail: string) => new Problem('conflict', detail);
const nameTaken = () =>
  new Problem('name-taken', 'There is a device of this name, perhaps in another case.', {
    errors: [{ pointer: '/name', detail: 'the name is taken' }],
  });
