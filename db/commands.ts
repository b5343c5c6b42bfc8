import { and, desc, eq, lt, sql } from 'drizzle-orm';
import type { Actor } from './audit.ts';
import type { Db } from './client.ts';
import { flag, instant, text, type Field, type Fields, type Page } from './fields.ts';
import { executePrepared } from './prepared.ts';
import { commands, commandTargets, commandTransitions, devices } from './schema.ts';

export type CommandRow = typeof commands.$inferSelect;

/** What GET /commands may be filtered by. A list of commands without the device's is walked by id. */
export const commandFields: Fields = {
  device: ofDevice(),
  createdBy: text(commands.createdBy),
  finished: flag(sql`${commands.finishedAt} is not null`),
  createdAt: instant(commands.createdAt, { id: commands.id }),
};

function ofDevice(): Field {
  const name = text(devices.name, { fold: true });
  return {
    operators: ['==', '=in='],
    condition: (operator, values) => sql`${commands.id} in (
      select ${commandTargets.commandId} from ${commandTargets}
      join ${devices} on ${devices.id} = ${commandTargets.deviceId} where ${name.condition(operator, values)})`,
  };
}

export type NewCommand = Pick<CommandRow, 'id' | 'payload' | 'format' | 'contentType' | 'timeoutSeconds'> & {
  actor: Actor;
  /** The lifecycle's id and type. */
  workflow: { id: string; name: string };
  auditId: string;
  targets: { name: string; executionId: string; transitionId: string }[];
};

export type AcceptedTarget = { device: string; deviceId: string; executionId: string };
export type RefusedTarget = { name: string; why: 'unknown' | 'blocked' };
export type Recorded = { accepted: AcceptedTarget[]; deadlineAt: Date } | { refused: RefusedTarget[] };

/**
 * Records commands, each with everything that follows from it (targets, orders, transitions, the start of its lifecycle,
 * the audit entry), all in one statement. A command with a target that is unknown or blocked leaves nothing behind, and
 * no trace on the others. Answers in the order of the commands.
 */
export async function insertCommands(db: Db, asked: NewCommand[]): Promise<Recorded[]> {
  const targets = asked.flatMap(({ id, targets: wanted }) => wanted.map((target) => ({ ...target, commandId: id })));
  const each = <Item, Value>(items: Item[], read: (item: Item) => Value) => sql.param(items.map(read));
  const rows = await executePrepared<RecordedRow>(
    db,
    sql`
    with asked as materialized (
      select * from unnest(
        ${each(asked, ({ id }) => id)}::uuid[],
        ${each(asked, ({ payload }) => Buffer.from(payload).toString('base64'))}::text[],
        ${each(asked, ({ format }) => format)}::text[],
        ${each(asked, ({ contentType }) => contentType)}::text[],
        ${each(asked, ({ timeoutSeconds }) => timeoutSeconds)}::int[],
        ${each(asked, (command) => command.targets.length)}::int[],
        ${each(asked, ({ actor }) => actor)}::text[],
        ${each(asked, ({ workflow }) => workflow.id)}::text[],
        ${each(asked, ({ workflow }) => workflow.name)}::text[],
        ${each(asked, ({ auditId }) => auditId)}::uuid[]
      ) a (id, payload, format, content_type, timeout_seconds, targets, actor, workflow_id, workflow, audit_id)
    ), wanted as materialized (
      select t.command_id, t.execution_id, t.transition_id, d.id as device_id, d.name as device, d.state
      from unnest(
        ${each(targets, ({ commandId }) => commandId)}::uuid[],
        ${each(targets, ({ name }) => name.toLowerCase())}::text[],
        ${each(targets, ({ executionId }) => executionId)}::uuid[],
        ${each(targets, ({ transitionId }) => transitionId)}::uuid[]
      ) t (command_id, name, execution_id, transition_id)
      left join devices d on lower(d.name) = t.name
    ), refused as materialized (
      select command_id from wanted where device_id is null or state = 'BLOCKED'
    ), recorded as (
      insert into commands (id, payload, format, content_type, timeout_seconds, deadline_at, targets, created_by)
      select id, decode(payload, 'base64'), format, content_type, timeout_seconds,
        now() + make_interval(secs => timeout_seconds), targets, actor
      from asked where id not in (select command_id from refused)
      returning id, deadline_at
    ), accepted as materialized (
      select w.*, r.deadline_at from wanted w join recorded r on r.id = w.command_id
    ), targets as (
      insert into command_targets (execution_id, command_id, device_id, status)
      select execution_id, command_id, device_id, 'CREATED' from accepted
    ), transitions as (
      insert into command_transitions (id, execution_id, status, status_by)
      select transition_id, execution_id, 'CREATED', 'service' from accepted
    ), orders as (
      insert into orders (device_id, id, kind, expires_at)
      select device_id, execution_id, 'command', deadline_at from accepted
    ), outbox as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'start', workflow_id, workflow, jsonb_strip_nulls(jsonb_build_object(
        'commandId', id, 'device', case targets when 1 then (select device from accepted where command_id = id) end))
      from asked join recorded using (id)
    ), audit as (
      insert into audit (id, actor, action, subject, data)
      select audit_id, actor, 'command.created', 'command/' || id,
        jsonb_build_object('targets', targets, 'timeoutSeconds', timeout_seconds)
      from asked join recorded using (id)
    )
    select w.execution_id as "executionId", w.state, w.device, w.device_id as "deviceId",
      (extract(epoch from r.deadline_at) * 1000)::float8 as "deadlineMs"
    from wanted w left join recorded r on r.id = w.command_id`,
  );
  const found = new Map(rows.map((row) => [row.executionId, row]));
  return asked.map((command) => outcomeOf(command, found));
}

type RecordedRow = AcceptedTarget & { state: string | null; deadlineMs: number | null };

function outcomeOf({ targets }: NewCommand, found: Map<string, RecordedRow>): Recorded {
  const pairs = targets.map(({ name, executionId }) => ({ name, row: found.get(executionId) }));
  const refused = pairs.flatMap(({ name, row }): RefusedTarget[] => {
    if (!row || row.state === null) return [{ name, why: 'unknown' }];
    return row.state === 'BLOCKED' ? [{ name, why: 'blocked' }] : [];
  });
  if (refused.length > 0) return { refused };
  const accepted = pairs.flatMap(({ row }) => (row ? [row] : []));
  return { accepted, deadlineAt: new Date(accepted[0]?.deadlineMs ?? 0) };
}

/** The youngest first. */
export async function listCommands(db: Db, { filter, after, limit }: Page<[id: string]>) {
  return db
    .select({ command: commands, counts: countsOf() })
    .from(commands)
    .where(and(filter, after && lt(commands.id, after[0])))
    .orderBy(desc(commands.id))
    .limit(limit);
}

export async function findCommand(db: Db, id: string) {
  const [row] = await db.select({ command: commands, counts: countsOf() }).from(commands).where(eq(commands.id, id));
  return row;
}

const countsOf = () => sql<Record<string, number>>`(
  select coalesce(jsonb_object_agg(s.status, s.count), '{}')
  from (select status, count(*) from ${commandTargets} where ${commandTargets.commandId} = ${commands.id} group by status) s)`;

/** Every target by its device's name, with what became of it step by step. */
export async function listTargets(db: Db, commandId: string) {
  type Transition = { status: string; by: string; reasonCode: string | null; late: boolean; at: string };
  return db
    .select({
      device: devices.name,
      target: commandTargets,
      transitions: sql<Transition[]>`(
        select jsonb_agg(jsonb_build_object('status', ${commandTransitions.status}, 'by', ${commandTransitions.statusBy},
          'reasonCode', ${commandTransitions.reasonCode}, 'late', ${commandTransitions.late}, 'at', ${commandTransitions.at})
          order by ${commandTransitions.id})
        from ${commandTransitions} where ${commandTransitions.executionId} = ${commandTargets.executionId})`,
    })
    .from(commandTargets)
    .innerJoin(devices, eq(devices.id, commandTargets.deviceId))
    .where(eq(commandTargets.commandId, commandId))
    .orderBy(sql`lower(${devices.name})`);
}
