import { and, eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { commands, commandTargets, type CommandStatus } from './schema.ts';

export type CommandReview = { deadlineAt: Date; overdue: boolean; counts: Partial<Record<CommandStatus, number>> };

/** How many targets of the command stand where, and whether its time is over by the database's clock. */
export async function countTargets(db: Db, commandId: string): Promise<CommandReview | undefined> {
  const rows = await db
    .select({
      deadlineAt: commands.deadlineAt,
      overdue: sql<boolean>`${commands.deadlineAt} <= now()`,
      status: commandTargets.status,
      count: sql<number>`count(*)::int`,
    })
    .from(commands)
    .innerJoin(commandTargets, eq(commandTargets.commandId, commands.id))
    .where(eq(commands.id, commandId))
    .groupBy(commands.id, commandTargets.status);
  const [first] = rows;
  if (!first) return undefined;
  const counts = Object.fromEntries(rows.map(({ status, count }) => [status, count]));
  return { deadlineAt: first.deadlineAt, overdue: first.overdue, counts };
}

/**
 * Ends every open target of an overdue command as TIMED_OUT by the service, with its transition, its event and its order
 * taken back, in one statement. Returns how many there were. A device may still overrule it with a late result.
 */
export async function timeOutTargets(db: Db, commandId: string): Promise<number> {
  const rows = await db.execute<{ execution_id: string }>(sql`
    with overdue as (
      select t.execution_id from command_targets t join commands c on c.id = t.command_id
      where t.command_id = ${commandId} and t.status in ('CREATED', 'IN_PROGRESS') and c.deadline_at <= now()
      order by t.execution_id for update of t
    ), ended as (
      update command_targets t
      set status = 'TIMED_OUT', status_by = 'service', version = version + 1, updated_at = now()
      from overdue o where t.execution_id = o.execution_id
      returning t.execution_id, t.command_id, t.device_id
    ), taken_back as (
      delete from orders o using ended e where o.device_id = e.device_id and o.id = e.execution_id
    ), told as (
      insert into command_transitions (id, execution_id, status, status_by)
      select uuid_now(), execution_id, 'TIMED_OUT', 'service' from ended
    ), announced as (
      insert into events (id, kind, device_id, data)
      select uuid_now(), 'command.timed-out', device_id,
        jsonb_build_object('commandId', command_id, 'executionId', execution_id) from ended
    )
    select execution_id from ended`);
  return rows.length;
}

export async function markFinished(db: Db, commandId: string): Promise<void> {
  await db
    .update(commands)
    .set({ finishedAt: sql`now()` })
    .where(and(eq(commands.id, commandId), sql`${commands.finishedAt} is null`));
}
