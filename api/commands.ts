import { randomUUIDv7 } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { cancelCommand } from '../db/command-endings.ts';
import * as commands from '../db/commands.ts';
import { commandProgressed, sendCommandId } from '../workflows/send-command.ts';
import type { RouteDeps } from './app.ts';
import { createRecorder } from './command-batches.ts';
import { newCommand, readPayload, showPayload, type CommandRequest } from './command-payloads.ts';
import { lifecycleOf } from './lifecycles.ts';
import { Problem } from './problem.ts';
import * as schemas from './schemas.ts';
import { answer, body, listOf, listQuery, notFound, otherwise } from './schemas.ts';

const tags = ['commands'];
const params = z.object({ id: schemas.uuid });
const status = z
  .enum(['CREATED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED'])
  .openapi('CommandStatus');

const accepted = z
  .object({
    id: schemas.uuid,
    targets: z.array(z.object({ device: schemas.deviceName, executionId: schemas.uuid, status })),
    deadlineAt: schemas.instant,
    lifecycle: schemas.lifecycle,
  })
  .openapi('AcceptedCommand');

const command = z
  .object({
    id: schemas.uuid,
    contentType: z.string(),
    timeoutSeconds: z.int(),
    deadlineAt: schemas.instant,
    counts: z.partialRecord(status, z.int()).openapi({ description: 'How many targets stand where' }),
    createdBy: z.string(),
    createdAt: schemas.instant,
    canceledAt: schemas.instant.nullable(),
    finishedAt: schemas.instant.nullable(),
    lifecycle: schemas.lifecycle,
  })
  .openapi('Command');

const transition = z.object({
  status: z.string(),
  by: z.string(),
  reasonCode: z.string().nullable(),
  late: z.boolean(),
  at: schemas.instant,
});
const target = z
  .object({
    device: schemas.deviceName,
    executionId: schemas.uuid,
    status,
    statusBy: z.enum(['service', 'device']),
    reasonCode: z.string().nullable(),
    reasonDescription: z.string().nullable(),
    result: z.record(z.string(), z.unknown()).nullable(),
    deliveredAt: schemas.instant.nullable(),
    updatedAt: schemas.instant,
    transitions: z.array(transition),
  })
  .openapi('CommandTarget');
const wholeCommand = command
  .extend({
    payload: z.unknown().optional().openapi({ description: 'When it is JSON' }),
    payloadBase64: z.base64().optional().openapi({ description: 'When it is not' }),
    targets: z.array(target),
  })
  .openapi('CommandWithTargets');

const routes = {
  create: createRoute({
    method: 'post',
    path: '/commands',
    operationId: 'createCommand',
    summary: 'Sends one payload to a device or a thousand, also to those that are away',
    tags,
    request: { body: body(newCommand) },
    responses: { 202: answer('Recorded; each target ends in one state by the deadline', accepted), ...otherwise },
  }),
  list: createRoute({
    method: 'get',
    path: '/commands',
    operationId: 'listCommands',
    summary: 'Commands, the youngest first',
    tags,
    request: { query: listQuery },
    responses: { 200: listOf('The youngest first', command), ...otherwise },
  }),
  get: createRoute({
    method: 'get',
    path: '/commands/{id}',
    operationId: 'getCommand',
    summary: 'One command, with what became of it on each target',
    tags,
    request: { params },
    responses: { 200: answer('The command', wholeCommand), ...otherwise },
  }),
  cancel: createRoute({
    method: 'post',
    path: '/commands/{id}/cancel',
    operationId: 'cancelCommand',
    summary: 'Takes the command back from every target that has not ended',
    tags,
    request: { params },
    responses: { 200: answer('As it is now', command), ...otherwise },
  }),
};

export function commandRoutes({ db, findPage, ...temporal }: RouteDeps) {
  const record = createRecorder(db);
  const lifecycle = (id: string) => lifecycleOf(temporal, sendCommandId(id));
  const present = ({ command: row, counts }: Row) => ({
    id: row.id,
    contentType: row.contentType,
    timeoutSeconds: row.timeoutSeconds,
    deadlineAt: row.deadlineAt.toISOString(),
    counts,
    createdBy: row.createdBy,
    createdAt: row.createdAt.toISOString(),
    canceledAt: row.canceledAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
    lifecycle: lifecycle(row.id),
  });
  return schemas
    .createRouter()
    .openapi(routes.create, async (c) => {
      const sent = compose(c.req.valid('json'), c.var.actor);
      const recorded = await record(c.var.db, sent);
      if ('refused' in recorded) throw targetsRefused(recorded.refused, sent);
      c.var.tell({ orders: recorded.accepted.map(({ deviceId }) => deviceId) });
      const targets = recorded.accepted.map(({ device, executionId }) => ({ device, executionId, status: created }));
      const deadlineAt = recorded.deadlineAt.toISOString();
      return c.json({ id: sent.id, targets, deadlineAt, lifecycle: lifecycle(sent.id) }, 202);
    })
    .openapi(routes.list, async (c) => {
      const rows = await findPage(c, c.req.valid('query'), {
        fields: commands.commandFields,
        find: commands.listCommands,
        place: (row) => [row.command.id],
      });
      return c.json({ items: rows.map(present) }, 200);
    })
    .openapi(routes.get, async (c) => {
      const { id } = c.req.valid('param');
      const row = await commands.findCommand(c.var.db, id);
      if (!row) throw notFound();
      const targets = (await commands.listTargets(c.var.db, id)).map(presentTarget);
      return c.json({ ...present(row), ...showPayload(row.command), targets }, 200);
    })
    .openapi(routes.cancel, async (c) => {
      const { id } = c.req.valid('param');
      const poke = { id, workflowId: sendCommandId(id), signal: commandProgressed.name };
      const canceled = await cancelCommand(c.var.db, c.var.actor, poke);
      const row = await commands.findCommand(c.var.db, id);
      if (!row) throw notFound();
      if (canceled === 0) throw new Problem('conflict', 'Every target of the command has ended already.');
      return c.json(present(row), 200);
    });
}

const created = 'CREATED' as const;
type Row = NonNullable<Awaited<ReturnType<typeof commands.findCommand>>>;
type TargetRow = Awaited<ReturnType<typeof commands.listTargets>>[number];

/** The whole command with every id in it, so that it can be written down in one statement. */
function compose(request: CommandRequest, actor: string): commands.NewCommand {
  const id = randomUUIDv7();
  return {
    id,
    actor,
    ...readPayload(request),
    timeoutSeconds: request.timeoutSeconds,
    workflow: { id: sendCommandId(id), name: 'sendCommand' },
    auditId: randomUUIDv7(),
    targets: [request.targets].flat().map((name) => ({
      name,
      executionId: randomUUIDv7(),
      transitionId: randomUUIDv7(),
    })),
  };
}

const reasons = { unknown: 'is not known', blocked: 'is blocked' };

function targetsRefused(refused: commands.RefusedTarget[], { targets }: commands.NewCommand): Problem {
  const errors = refused.map(({ name, why }) => ({
    pointer: `/targets/${targets.findIndex((wanted) => wanted.name === name)}`,
    detail: `${name} ${reasons[why]}`,
  }));
  return new Problem('targets-refused', 'The command was not sent to anybody; each fault is listed.', { errors });
}

const presentTarget = ({ device, target: row, transitions }: TargetRow) => ({
  device,
  executionId: row.executionId,
  status: row.status,
  statusBy: row.statusBy,
  reasonCode: row.reasonCode,
  reasonDescription: row.reasonDescription,
  result: row.result,
  deliveredAt: row.deliveredAt?.toISOString() ?? null,
  updatedAt: row.updatedAt.toISOString(),
  transitions: transitions.map((step) => ({ ...step, at: new Date(step.at).toISOString() })),
});
