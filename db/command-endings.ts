import { sql, type SQL } from 'drizzle-orm';
import type { Actor } from './audit.ts';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';

/**
 * Ends every open target of an overdue command as TIMED_OUT by the service, in one statement. Returns how many there
 * were. A device may still overrule it with a late result.
 */
export async function timeOutTargets(db: Db, commandId: string): Promise<number> {
  const isOverdue = sql`exists (select from commands where id = ${commandId}::uuid and deadline_at <= now())`;
  const rows = await executePrepared<{ count: number }>(
    db,
    sql`with ${endingOpenTargets('TIMED_OUT', sql`command_id = ${commandId}::uuid and ${isOverdue}`)} select count from total`,
  );
  return rows[0]?.count ?? 0;
}

/**
 * Takes back every target that has not ended, and pokes the lifecycle, in one statement. Returns how many there were;
 * none is also the answer for a command that nobody knows.
 */
export async function cancelCommand(
  db: Db,
  actor: Actor,
  { id, workflowId, signal }: { id: string; workflowId: string; signal: string },
): Promise<number> {
  const rows = await executePrepared<{ count: number }>(
    db,
    sql`
    with ${endingOpenTargets('CANCELED', sql`command_id = ${id}::uuid`)}, marked as (
      update commands set canceled_at = now() from total where id = ${id}::uuid
    ), poked as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(${workflowId}::text), 'signal', ${workflowId}::text, ${signal}::text, '{}' from total
    ), recorded as (
      insert into audit (id, actor, action, subject, data)
      select uuid_now(), ${actor}::text, 'command.canceled', 'command/' || ${id}::uuid,
        jsonb_build_object('targets', count) from total
    )
    select count from total`,
  );
  return rows[0]?.count ?? 0;
}

/**
 * Takes back every command that the device has not ended, and pokes their lifecycles. Gives how many there were; the second
 * time there are none.
 */
export async function cancelCommandsOf(
  db: Db,
  { deviceId, poke }: { deviceId: string; poke: { workflowIdPrefix: string; signal: string } },
): Promise<number> {
  const rows = await executePrepared<{ count: number }>(
    db,
    sql`
    with ${endingOpenTargets('CANCELED', sql`device_id = ${deviceId}::uuid`)}, poked as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'signal', workflow_id, ${poke.signal}::text, '{}'
      from (select distinct ${poke.workflowIdPrefix}::text || command_id as workflow_id from ended) commands
    )
    select count from total`,
  );
  return rows[0]?.count ?? 0;
}

/**
 * The parts of a statement by which the service ends open targets, those of the condition: locked in the order of their key, each with
 * its order taken back, its transition and its event. `total` has their count, and no row when there were none.
 */
function endingOpenTargets(status: 'TIMED_OUT' | 'CANCELED', condition: SQL): SQL {
  const event = `command.${status.toLowerCase().replace('_', '-')}`;
  return sql`open as (
      select execution_id from command_targets
      where status in ('CREATED', 'IN_PROGRESS') and ${condition}
      order by execution_id for update
    ), ended as (
      update command_targets t
      set status = ${status}::text, status_by = 'service', version = version + 1, updated_at = now()
      from open o where t.execution_id = o.execution_id
      returning t.execution_id, t.command_id, t.device_id
    ), taken_back as (
      delete from orders o using ended e where o.device_id = e.device_id and o.id = e.execution_id
    ), told as (
      insert into command_transitions (id, execution_id, status, status_by)
      select uuid_now(), execution_id, ${status}::text, 'service' from ended
    ), announced as (
      insert into events (id, kind, device_id, data)
      select uuid_now(), ${event}::text, device_id,
        jsonb_build_object('commandId', command_id, 'executionId', execution_id) from ended
    ), total as (
      select count(*)::int as count from ended having count(*) > 0
    )`;
}
