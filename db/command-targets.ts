import { inArray, isNull, and, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import { commandTargets, type CommandStatus } from './schema.ts';

/** What a device says about its execution. The ids are made by the process, so that a repeated statement repeats them. */
export type CommandReport = {
  executionId: string;
  deviceId: string;
  status: Extract<CommandStatus, 'IN_PROGRESS' | 'SUCCEEDED' | 'FAILED' | 'REJECTED' | 'TIMED_OUT'>;
  reasonCode: string | null;
  reasonDescription: string | null;
  result: Record<string, unknown> | null;
  transitionId: string;
  eventId: string;
};

/** `recorded` and `repeated` are both accepted; a repeated one has changed nothing. */
export type CommandVerdict = 'recorded' | 'repeated' | 'unknown' | 'ended' | 'canceled';

/** Whom to poke when a target has ended: the workflow whose id is this prefix and the command's id, by this signal. */
export type CommandPoke = { workflowIdPrefix: string; signal: string };

/**
 * Records what devices said, in the order given, and judges each: a device speaks for its own executions only, a status
 * goes forward only, and a time-out by the service may still be overruled. What was late is recorded as that, and a late
 * IN_PROGRESS does not open the execution again. Orders end with their execution; one that is in progress is not told
 * again. One statement, with transitions, events and pokes; sending it twice changes nothing more.
 */
export async function recordCommandReports(
  db: Db,
  reports: CommandReport[],
  poke: CommandPoke,
): Promise<CommandVerdict[]> {
  const rows = await executePrepared<{ verdict: CommandVerdict }>(
    db,
    sql`
    with input as (
      select * from unnest(${column(reports, (report) => report.executionId)}::uuid[],
        ${column(reports, (report) => report.deviceId)}::uuid[], ${column(reports, (report) => report.status)}::text[],
        ${column(reports, (report) => report.reasonCode)}::text[],
        ${column(reports, (report) => report.reasonDescription)}::text[],
        ${column(reports, (report) => report.result && JSON.stringify(report.result))}::jsonb[],
        ${column(reports, (report) => report.transitionId)}::uuid[],
        ${column(reports, (report) => report.eventId)}::uuid[])
      with ordinality as i (execution_id, device_id, status, reason_code, reason_description, result, transition_id, event_id, place)
    ), target as (
      select * from command_targets where (execution_id, device_id) in (select execution_id, device_id from input)
      order by execution_id for update
    ), judged as (
      select i.*, t.command_id, t.status as was,
        t.status = 'TIMED_OUT' and t.status_by = 'service' as late,
        t.status in ('CREATED', 'IN_PROGRESS') or (t.status = 'TIMED_OUT' and t.status_by = 'service') as open,
        min(i.place) filter (where i.status <> 'IN_PROGRESS') over by_target as ending,
        first_value(i.status) over (by_target order by i.status = 'IN_PROGRESS', i.place) as ended_as,
        (i.status, i.reason_code, i.reason_description, i.result) is not distinct from
          (lag(i.status, 1, t.status) over in_order, lag(i.reason_code, 1, t.reason_code) over in_order,
            lag(i.reason_description, 1, t.reason_description) over in_order, lag(i.result, 1, t.result) over in_order) as same
      from input i left join target t using (execution_id, device_id)
      window by_target as (partition by i.execution_id, i.device_id), in_order as (by_target order by i.place)
    ), verdicts as (
      select *, case
          when command_id is null then 'unknown'
          when open and place <= coalesce(ending, place) then
            case when same and status = 'IN_PROGRESS' then 'repeated' else 'recorded' end
          when status = case when open then ended_as when was = 'CANCELED' then null else was end then 'repeated'
          when was = 'CANCELED' then 'canceled'
          else 'ended'
        end as verdict
      from judged
    ), recorded as (
      select *, count(*) over (partition by execution_id) as steps from verdicts where verdict = 'recorded'
    ), latest as (
      select distinct on (execution_id) * from recorded order by execution_id, place desc
    ), updated as (
      update command_targets t
      set status = l.status, status_by = 'device', version = t.version + l.steps, reason_code = l.reason_code,
        reason_description = l.reason_description, result = l.result,
        delivered_at = coalesce(t.delivered_at, now()), updated_at = now()
      from latest l where t.execution_id = l.execution_id and not (l.late and l.status = 'IN_PROGRESS')
    ), ended as (
      delete from orders o using latest l
      where o.device_id = l.device_id and o.id = l.execution_id and l.status <> 'IN_PROGRESS'
    ), under_way as (
      update orders o set next_attempt_at = 'infinity' from latest l
      where o.device_id = l.device_id and o.id = l.execution_id and l.status = 'IN_PROGRESS'
    ), transitions as (
      insert into command_transitions (id, execution_id, status, status_by, reason_code, late)
      select transition_id, execution_id, status, 'device', reason_code, late from recorded order by place
      on conflict do nothing
    ), announced as (
      insert into events (id, kind, device_id, data)
      select event_id, 'command.' || replace(lower(status), '_', '-'), device_id,
        jsonb_build_object('commandId', command_id, 'executionId', execution_id)
      from recorded order by place
      on conflict do nothing
    ), poked as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'signal', workflow_id, ${poke.signal}, '{}'
      from (select distinct ${poke.workflowIdPrefix}::text || command_id as workflow_id from latest
        where status <> 'IN_PROGRESS' and not late) ended_command
    )
    select verdict from verdicts order by place`,
  );
  return rows.map(({ verdict }) => verdict);
}

/** Notes that the devices acknowledged these executions. The first time stands. */
export async function markDelivered(db: Db, executionIds: string[]): Promise<void> {
  const undelivered = and(inArray(commandTargets.executionId, executionIds), isNull(commandTargets.deliveredAt));
  const locked = db
    .$with('locked')
    .as(
      db
        .select({ executionId: commandTargets.executionId })
        .from(commandTargets)
        .where(undelivered)
        .orderBy(commandTargets.executionId)
        .for('update'),
    );
  await db
    .with(locked)
    .update(commandTargets)
    .set({ deliveredAt: sql`now()` })
    .where(inArray(commandTargets.executionId, db.select({ executionId: locked.executionId }).from(locked)));
}

/** One array parameter of an unnest. */
const column = <Row>(rows: Row[], read: (row: Row) => string | null) => sql`${sql.param(rows.map(read))}`;
