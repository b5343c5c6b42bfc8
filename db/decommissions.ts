import { eq, sql } from 'drizzle-orm';
import type { Actor } from './audit.ts';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import { decommissions } from './revocation-schema.ts';

/**
 * Takes the device out of the fleet, in one statement with everything that follows: its row is blocked for good, and on the
 * feed that every gateway follows; its lifecycle is started. Asking again changes nothing. Gives the device's id and name,
 * undefined when there is none.
 */
export async function askDecommission(
  db: Db,
  actor: Actor,
  { name, workflow }: { name: string; workflow: { idPrefix: string; name: string } },
): Promise<{ id: string; name: string } | undefined> {
  const [row] = await executePrepared<{ id: string; name: string }>(
    db,
    sql`
    with found as materialized (
      select id, name, decommissioned_at from devices where lower(name) = lower(${name}::text) for update
    ), ended as (
      update devices d set state = 'BLOCKED', decommissioned_at = now(), updated_at = now()
      from found where d.id = found.id and found.decommissioned_at is null
      returning d.id, d.name
    ), fed as (
      insert into feed (kind, subject) select 'device', id from ended returning id
    ), asked as (
      insert into decommissions (device_id, asked_by, feed_id) select ended.id, ${actor}::text, fed.id from ended, fed
    ), started as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'start', workflow_id, ${workflow.name}::text,
        jsonb_build_object('deviceId', id, 'device', name)
      from (select *, ${workflow.idPrefix}::text || id as workflow_id from ended) e
    ), recorded as (
      insert into audit (id, actor, action, subject)
      select uuid_now(), ${actor}::text, 'device.decommissioned', 'device/' || name from ended
    ), announced as (
      insert into events (id, kind, device_id, data) select uuid_now(), 'device.decommissioned', id, '{}' from ended
    )
    select id, name from found`,
  );
  return row;
}

export type DecommissionRow = typeof decommissions.$inferSelect;

export async function findDecommission(db: Db, deviceId: string): Promise<DecommissionRow | undefined> {
  const [row] = await db.select().from(decommissions).where(eq(decommissions.deviceId, deviceId));
  return row;
}

/** Revokes every certificate of the device that lives, with entry and event of each. Gives how many there were. */
export async function revokeCertificatesOf(db: Db, deviceId: string, reason: string): Promise<number> {
  const [row] = await executePrepared<{ count: number }>(
    db,
    sql`
    with living as materialized (
      select id from certificates where device_id = ${deviceId}::uuid and state <> 'REVOKED' order by id for update
    ), revoked as (
      update certificates c set state = 'REVOKED', revocation_reason = ${reason}::text, revoked_at = clock_timestamp()
      from living where c.id = living.id
      returning c.id, c.device_id
    ), fed as (
      insert into feed (kind, subject) select 'certificate', id from revoked
    ), recorded as (
      insert into audit (id, actor, action, subject, data)
      select uuid_now(), 'system/lifecycle', 'certificate.revoked', 'certificate/' || id,
        jsonb_build_object('reason', ${reason}::text)
      from revoked
    ), announced as (
      insert into events (id, kind, device_id, subject, data)
      select uuid_now(), 'certificate.revoked', device_id, 'certificate/' || id,
        jsonb_build_object('certificateId', id, 'reason', ${reason}::text)
      from revoked
    )
    select count(*)::int as count from revoked`,
  );
  return row?.count ?? 0;
}

/** The authorities of the device's certificates: whose lists tell of them. */
export async function listAuthoritiesOf(db: Db, deviceId: string): Promise<string[]> {
  const rows = await db.execute<{ id: string }>(
    sql`select distinct authority_id as id from certificates where device_id = ${deviceId}::uuid and list_number is null
      and authority_id is not null`,
  );
  return rows.map(({ id }) => id);
}

/** Ends the decommission in its row. False when it has ended already. */
export async function finishDecommission(db: Db, deviceId: string): Promise<boolean> {
  const finished = await db
    .update(decommissions)
    .set({ finishedAt: sql`clock_timestamp()` })
    .where(sql`${decommissions.deviceId} = ${deviceId} and ${decommissions.finishedAt} is null`)
    .returning({ deviceId: decommissions.deviceId });
  return finished.length === 1;
}
