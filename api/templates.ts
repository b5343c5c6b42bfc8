import { createRoute, z } from '@hono/zod-openapi';
import * as templates from '../db/templates.ts';
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
    responses: { 201: answer('Created', template), ...otherwise },
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
    responses: { 200: answer('As it is now', template), ...otherwise },
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

export const templateRoutes = ({ findPage }: RouteDeps) =>
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
      const row = await templates.insertTemplate(c.var.db, c.var.actor, c.req.valid('json'));
      if (!row) throw new Problem('name-taken', 'There is a template of this name.');
      return c.json(present(row), 201);
    })
    .openapi(routes.get, async (c) => {
      const row = await templates.findTemplate(c.var.db, c.req.valid('param').name);
      if (!row) throw notFound();
      return c.json(present(row), 200);
    })
    .openapi(routes.replace, async (c) => {
      const replacement = { ...c.req.valid('param'), ...c.req.valid('json') };
      const row = await templates.replaceTemplate(c.var.db, c.var.actor, replacement);
      if (!row) throw notFound();
      return c.json(present(row), 200);
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
  createdAt: createdAt.toISOString(),
  updatedAt: updatedAt.toISOString(),
});
