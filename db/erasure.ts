import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';

/** How much of what was erased, by where it stood. */
export type Erased = Record<string, number>;

/**
 * Erases what is known of the device besides its name, its certificates and the audit: in one statement, which erases less
 * the second time. What it said of its work goes, that there was work stays: rollouts and commands count it. Of its events
 * the addresses stay until their month is dropped.
 */
export async function eraseDevice(db: Db, deviceId: string): Promise<Erased> {
  const [row] = await db.execute<Erased>(sql`
    with attributes as (
      update devices set attributes = '{}', template = null, updated_at = now()
      where id = ${deviceId}::uuid and (attributes <> '{}' or template is not null) returning 1
    ), software as (delete from device_software where device_id = ${deviceId}::uuid returning 1
    ), revisions as (delete from software_revisions where device_id = ${deviceId}::uuid returning 1
    ), registered_keys as (delete from registered_devices where device_id = ${deviceId}::uuid returning 1
    ), recovery_rows as (delete from recoveries where device_id = ${deviceId}::uuid returning 1
    ), memberships as (delete from group_members where device_id = ${deviceId}::uuid returning 1
    ), presence_row as (delete from presence where device_id = ${deviceId}::uuid returning 1
    ), checks as (delete from presence_checks where device_id = ${deviceId}::uuid returning 1
    ), old_sessions as (
      delete from sessions where device_id = ${deviceId}::uuid and closed_at is not null returning 1
    ), open_orders as (delete from orders where device_id = ${deviceId}::uuid returning 1
    ), notices as (delete from job_notices where device_id = ${deviceId}::uuid returning 1
    ), kept_reports as (delete from quarantine where device_id = ${deviceId}::uuid returning 1
    ), answers as (
      update command_targets set result = null, reason_description = null
      where device_id = ${deviceId}::uuid and (result is not null or reason_description is not null) returning 1
    ), details as (
      update executions e set details = '{}', last_request = null
      from (select distinct rollout_id from rollout_targets where device_id = ${deviceId}::uuid) t
      join jobs j on j.rollout_id = t.rollout_id
      where e.job_id = j.id and e.device_id = ${deviceId}::uuid and e.details <> '{}' returning 1
    ), reasons as (
      update rollout_targets set previous_version = null, reason = null
      where device_id = ${deviceId}::uuid and state = 'DONE' and (previous_version is not null or reason is not null) returning 1
    ), configurations as (
      update enrolments e set answer = jsonb_set(e.answer, '{configuration}', '{}')
      from certificates c
      where c.device_id = ${deviceId}::uuid and e.certificate_id = c.id and e.answer -> 'configuration' <> '{}' returning 1
    )
    select (select count(*)::int from attributes) as attributes, (select count(*)::int from software) as software,
      (select count(*)::int from memberships) as groups, (select count(*)::int from presence_row) as presence,
      (select count(*)::int from old_sessions) as sessions, (select count(*)::int from open_orders) as orders,
      (select count(*)::int from kept_reports) as quarantined, (select count(*)::int from answers) as "commandResults",
      (select count(*)::int from details) as executions, (select count(*)::int from reasons) as "rolloutReasons",
      (select count(*)::int from configurations) as configurations`);
  return row ?? {};
}
