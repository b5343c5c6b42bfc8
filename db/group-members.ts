import { and, asc, eq, isNull, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { groupMembers, groups } from './rollout-schema.ts';
import { listUnknownDevices } from './targets.ts';

export type MembersChanged = { added: number; removed: number };

/**
 * Adds and removes members of a static group, by the names of devices; who is in already, or out, stays so. With a name
 * that no device has, nothing is done. Undefined when there is no static group of this name. The group's row is locked,
 * so that changes of one group follow one another.
 */
export async function changeMembers(
  db: Db,
  actor: Actor,
  name: string,
  { add, remove }: { add: string[]; remove: string[] },
): Promise<MembersChanged | { unknown: string[] } | undefined> {
  return db.transaction(async (tx) => {
    const [group] = await tx
      .select()
      .from(groups)
      .where(and(eq(sql`lower(${groups.name})`, name.toLowerCase()), isNull(groups.filter)))
      .for('no key update');
    if (!group) return undefined;
    const unknown = await listUnknownDevices(tx, [...add, ...remove]);
    if (unknown.length > 0) return { unknown };
    const changed = await writeMembers(tx, group.id, { add, remove });
    if (changed.added + changed.removed > 0) {
      await insertAudit(tx, actor, { action: 'group.members-changed', subject: `group/${group.name}`, data: changed });
    }
    return changed;
  });
}

async function writeMembers(db: Db, groupId: string, { add, remove }: { add: string[]; remove: string[] }) {
  const [changed] = await db.execute<MembersChanged>(sql`
    with added as (
      insert into group_members (group_id, device_id)
      select ${groupId}::uuid, id from devices where lower(name) = any (${lowered(add)}::text[])
      on conflict do nothing returning device_id
    ), removed as (
      delete from group_members where group_id = ${groupId}::uuid and device_id in (
        select id from devices where lower(name) = any (${lowered(remove)}::text[])) returning device_id
    )
    select (select count(*) from added)::int as added, (select count(*) from removed)::int as removed`);
  return changed ?? { added: 0, removed: 0 };
}

const lowered = (names: string[]) => sql`${sql.param(names.map((name) => name.toLowerCase()))}`;

/** The static groups of a device, by name. */
export async function listGroupsOf(db: Db, deviceId: string): Promise<string[]> {
  const rows = await db
    .select({ name: groups.name })
    .from(groupMembers)
    .innerJoin(groups, eq(groups.id, groupMembers.groupId))
    .where(eq(groupMembers.deviceId, deviceId))
    .orderBy(asc(groups.name));
  return rows.map(({ name }) => name);
}

/** Puts a device into static groups, by name; one that is gone, or has a filter, is passed over. */
export async function joinGroups(db: Db, deviceId: string, names: string[]): Promise<void> {
  if (names.length === 0) return;
  await db.execute(sql`
    insert into group_members (group_id, device_id)
    select id, ${deviceId}::uuid from groups where lower(name) = any (${lowered(names)}::text[]) and filter is null
    on conflict do nothing`);
}
