import { createRoute, z } from '@hono/zod-openapi';
import type { Db } from '../db/client.ts';
import { findGroup } from '../db/groups.ts';
import * as templates from '../db/templates.ts';
import { mintHookSecret } from '../pki/hook-secrets.ts';
import type { RouteDeps } from './app.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';
import { templateDefinition } from './template-definition.ts';

const tags = ['templates'];
const path = '/templates/{name}';
const params = z.object({ name: schemas.templateName });

const template = z
  .object({
    name: schemas.templateName,
    version: z.int(),
    definition: templateDefinition,
    createdAt: schemas.instant,
    updatedAt: schemas.instant,
  })
  .openapi('Template');
const newTemplate = z
  .strictObject({ name: schemas.templateName, definition: templateDefinition })
  .openapi('NewTemplate');

const withSecret = template
  .extend({
    hookSecret: z.string().optional().openapi({
      description: 'What signs the calls of a new hook. In this answer only: `…/hook-secret` makes another',
    }),
  })
  .openapi('TemplateWithSecret');
const hookSecret = z.object({ hookSecret: z.string() }).openapi('HookSecret');

const routes = {
  list: createRoute({
    method: 'get',
    path: '/templates',
    operationId: 'listTemplates',
    summary: 'Templates by name',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('By name', template), ...otherwise },
  }),
  create: createRoute({
    method: 'post',
    path: '/templates',
    operationId: 'createTemplate',
    summary: 'Says what devices become that enrol by it',
    tags,
    request: { body: body(newTemplate) },
    responses: { 201: answer('Created', withSecret), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path,
    operationId: 'getTemplate',
    summary: 'One template',
    tags,
    request: { params },
    responses: { 200: answer('The template', template), ...otherwise },
  }),
  replace: createRoute({
    method: 'put',
    path,
    operationId: 'replaceTemplate',
    summary: 'Replaces the definition; later registrations follow the new one',
    tags,
    request: { params, body: body(z.strictObject({ definition: templateDefinition }).openapi('TemplateReplacement')) },
    responses: { 200: answer('As it is now', withSecret), ...otherwise },
  }),
  secret: createRoute({
    method: 'post',
    path: `${path}/hook-secret`,
    operationId: 'replaceHookSecret',
    summary: "Makes another secret for the template's hook, which signs its calls from now on",
    tags,
    request: { params, body: { ...body(z.strictObject({})), required: false } },
    responses: { 201: answer('In this answer only', hookSecret), ...otherwise },
  }),
  delete: createRoute({
    method: 'delete',
    path,
    operationId: 'deleteTemplate',
    summary: 'Deletes a template that no claim names',
    tags,
    request: { params },
    responses: { 204: { description: 'Gone' }, ...otherwise },
  }),
};

export const templateRoutes = ({ findPage, sealingKey }: RouteDeps) =>
  schemas
    .createRouter()
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: templates.templateFields,
        find: templates.listTemplates,
        place: (row) => [row.name],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.create, async (c) => {
      const request = c.req.valid('json');
      await judgeGroups(c.var.db, request.definition.groups);
      const { secret, sealed } = mintHookSecret(request.name, sealingKey);
      const row = await templates.insertTemplate(c.var.db, c.var.actor, request, sealed);
      if (!row) throw new Problem('name-taken', 'There is a template of this name.');
      c.set('kept', present(row));
      return c.json({ ...present(row), ...(row.definition.hook && { hookSecret: secret }) }, 201);
    })
    .openapi(routes.get, async (c) => {
      const row = await templates.findTemplate(c.var.db, c.req.valid('param').name);
      if (!row) throw notFound();
      return c.json(present(row), 200);
    })
    .openapi(routes.replace, async (c) => {
      const replacement = { ...c.req.valid('param'), ...c.req.valid('json') };
      await judgeGroups(c.var.db, replacement.definition.groups);
      const { secret, sealed } = mintHookSecret(replacement.name, sealingKey);
      const replaced = await templates.replaceTemplate(c.var.db, c.var.actor, replacement, sealed);
      if (!replaced) throw notFound();
      return c.json({ ...present(replaced.row), ...(replaced.isNewSecret && { hookSecret: secret }) }, 200);
    })
    .openapi(routes.secret, async (c) => {
      const { name } = c.req.valid('param');
      const { secret, sealed } = mintHookSecret(name, sealingKey);
      if (!(await templates.replaceHookSecret(c.var.db, c.var.actor, name, sealed))) {
        const exists = await templates.findTemplate(c.var.db, name);
        throw exists ? new Problem('conflict', 'This template has no hook.') : notFound();
      }
      c.set('kept', {});
      return c.json({ hookSecret: secret }, 201);
    })
    .openapi(routes.delete, async (c) => {
      const { name } = c.req.valid('param');
      if (!(await templates.deleteTemplate(c.var.db, c.var.actor, name))) {
        const exists = await templates.findTemplate(c.var.db, name);
        throw exists ? new Problem('conflict', 'A claim names this template.') : notFound();
      }
      return c.body(null, 204);
    });

const present = ({ createdAt, updatedAt, ...row }: templates.TemplateRow) => ({
  ...row,
  definition: templates.readDefinition(row.definition),
  createdAt: createdAt.toISOString(),
  updatedAt: updatedAt.toISOString(),
});

/** A device can join static groups only, and a group that is there. */
async function judgeGroups(db: Db, names: string[]): Promise<void> {
  const found = await Promise.all(names.map((name) => findGroup(db, name)));
  const errors = found.flatMap((group, index) =>
    group?.filter === null ? [] : [{ pointer: `/definition/groups/${index}`, detail: 'there is no such static group' }],
  );
  if (errors.length > 0) throw new Problem('invalid', 'The template names groups that no device can join.', { errors });
}
