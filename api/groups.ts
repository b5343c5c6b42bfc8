import { randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import type { Db } from '../db/client.ts';
import type { Page } from '../db/fields.ts';
import { changeMembers } from '../db/group-members.ts';
import * as groups from '../db/groups.ts';
import { findDeviceFields } from '../db/targets.ts';
import type { RouteDeps } from './app.ts';
import { device, presentDevice } from './devices.ts';
import { judgingFilter } from './filters.ts';
import { Problem, type Fault } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['groups'];
const path = '/groups/{name}';
const params = z.object({ name: schemas.groupName });
const devicesMax = 1_000;

const group = z
  .object({
    id: schemas.uuid,
    name: schemas.groupName,
    description: z.string(),
    filter: z.string().nullable().openapi({ description: 'Of a dynamic group; null when its members are listed' }),
    createdAt: schemas.instant,
    updatedAt: schemas.instant,
  })
  .openapi('Group');
const wholeGroup = group.extend({ members: z.int() }).openapi('GroupWithCount');

const description = schemas.plainText(500);
const newGroup = z
  .strictObject({
    name: schemas.groupName,
    description: description.default(''),
    filter: schemas.deviceFilter.optional().openapi({
      description:
        'Makes the group dynamic: its members are the devices that match, at any time. It names static groups only',
    }),
  })
  .openapi('NewGroup');
const groupChanges = z
  .strictObject({ description: description.optional(), filter: schemas.deviceFilter.optional() })
  .openapi('GroupChanges');

const names = z.array(schemas.deviceName).max(devicesMax);
const memberChanges = z
  .strictObject({ add: names.default([]), remove: names.default([]) })
  .superRefine(({ add, remove }, context) => {
    const seen = new Set<string>();
    for (const [list, listed] of Object.entries({ add, remove })) {
      for (const [index, name] of listed.entries()) {
        if (seen.has(name.toLowerCase())) {
          context.addIssue({ code: 'custom', path: [list, index], message: 'the device is named twice' });
        }
        seen.add(name.toLowerCase());
      }
    }
  })
  .openapi('MemberChanges', { example: { add: ['pump-17'], remove: [] } });
const membersChanged = z.object({ added: z.int(), removed: z.int() }).openapi('MembersChanged');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/groups',
    operationId: 'listGroups',
    summary: 'Groups by name',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('By name', group), ...otherwise },
  }),
  create: createRoute({
    method: 'post',
    path: '/groups',
    operationId: 'createGroup',
    summary: 'Makes a group: an empty one, or with a filter a dynamic one',
    tags,
    request: { body: body(newGroup) },
    responses: { 201: answer('Made', group), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getGroup',
    summary: 'One group, and how many members it has now',
    tags,
    request: { params },
    responses: { 200: answer('The group', wholeGroup), ...otherwise },
  }),
  change: createRoute({
    method: 'patch',
    path,
    operationId: 'changeGroup',
    summary: 'Changes the description, or the filter of a dynamic group',
    tags,
    request: { params, body: body(groupChanges) },
    responses: { 200: answer('As it is now', group), ...otherwise },
  }),
  delete: createRoute({
    method: 'delete',
    path,
    operationId: 'deleteGroup',
    summary: 'Deletes a group that no filter of another group names; its devices stay',
    tags,
    request: { params },
    responses: { 204: { description: 'Gone' }, ...otherwise },
  }),
  members: createRoute({
    method: 'get',
    path: `${path}/members`,
    operationId: 'listGroupMembers',
    summary: 'The devices of a group, by name',
    tags,
    request: { params, query: listQuery },
    responses: { 200: listOf('By name', device), ...otherwise },
  }),
  changeMembers: createRoute({
    method: 'patch',
    path: `${path}/members`,
    operationId: 'changeGroupMembers',
    summary: 'Adds and removes devices of a static group, all of them or none',
    tags,
    request: { params, body: body(memberChanges) },
    responses: { 200: answer('How many were not there, or were', membersChanged), ...otherwise },
  }),
};

export const groupRoutes = ({ findPage }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: groups.groupFields,
        find: groups.listGroups,
        place: (row) => [row.name.toLowerCase()],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.create, async (c) => {
      const { filter = null, ...rest } = c.req.valid('json');
      const asked = { id: randomUUIDv7(), ...rest, filter };
      const row = await judgingFilter('/filter', () => groups.insertGroup(c.var.db, c.var.actor, asked));
      if (!row) throw nameTaken();
      return c.json(present(row), 201);
    })
    .openapi(routes.get, async (c) => {
      const row = await groups.findGroup(c.var.db, c.req.valid('param').name);
      if (!row) throw notFound();
      return c.json({ ...present(row), members: await groups.countMembers(c.var.db, row) }, 200);
    })
    .openapi(routes.change, async (c) => {
      const { name } = c.req.valid('param');
      const changes = c.req.valid('json');
      const row = await judgingFilter('/filter', () => groups.changeGroup(c.var.db, c.var.actor, name, changes));
      if (!row) throw await missing(c.var.db, name, 'The group is static: it has members, and no filter to change.');
      return c.json(present(row), 200);
    })
    .openapi(routes.delete, async (c) => {
      const { name } = c.req.valid('param');
      if (!(await groups.deleteGroup(c.var.db, c.var.actor, name))) {
        throw await missing(c.var.db, name, 'The filter of another group names this one.');
      }
      return c.body(null, 204);
    })
    .openapi(routes.members, async (c) => {
      const row = await groups.findGroup(c.var.db, c.req.valid('param').name);
      if (!row) throw notFound();
      const rows = await findPage(c, c.req.valid('query'), {
        fields: findDeviceFields,
        find: (db, page: Page<[name: string]>) => groups.listMembers(db, row, page),
        place: (member) => [member.name.toLowerCase()],
      });
      return c.json({ items: rows.map(presentDevice) }, 200);
    })
    .openapi(routes.changeMembers, async (c) => {
      const { name } = c.req.valid('param');
      const asked = c.req.valid('json');
      const changed = await changeMembers(c.var.db, c.var.actor, name, asked);
      if (!changed) throw await missing(c.var.db, name, 'The group is dynamic: its filter says who is a member.');
      if ('unknown' in changed) throw unknownDevices(changed.unknown, asked);
      return c.json(changed, 200);
    });

const present = ({ createdAt, updatedAt, ...row }: groups.GroupRow) => ({
  ...row,
  createdAt: createdAt.toISOString(),
  updatedAt: updatedAt.toISOString(),
});

/** Why a change found no group: there is none, or it is of the wrong kind. */
async function missing(db: Db, name: string, otherwiseDetail: string): Promise<Problem> {
  return (await groups.findGroup(db, name)) ? new Problem('conflict', otherwiseDetail) : notFound();
}

function unknownDevices(unknown: string[], asked: z.infer<typeof memberChanges>): Problem {
  const isUnknown = new Set(unknown);
  const errors = Object.entries(asked).flatMap(([list, listed]) =>
    listed.flatMap((name, index): Fault[] =>
      isUnknown.has(name) ? [{ pointer: `/${list}/${index}`, detail: `${name} is not known` }] : [],
    ),
  );
  return new Problem('invalid', 'Nobody was added or removed; each device that is not known is listed.', { errors });
}

const nameTaken = () =>
  new Problem('name-taken', 'There is a group of this name, perhaps in another case.', {
    errors: [{ pointer: '/name', detail: 'the name is taken' }],
  });
