import { and, asc, eq, gt, inArray, isNotNull, isNull, notExists, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { deviceFields, isMember } from './device-fields.ts';
import { listDevices } from './devices.ts';
import { flag, text, type Fields, type Page } from './fields.ts';
import { compileFilter, FilterFault } from './filters.ts';
import { groupReferences, groups } from './rollout-schema.ts';
import { devices } from './schema.ts';
import { groupsNamedBy, resolveGroups } from './targets.ts';

/** A group lists its members, or it has a filter and they are those devices that match: static, or dynamic. */
export type GroupRow = typeof groups.$inferSelect;

/** What GET /groups may be filtered by. */
export const groupFields: Fields = {
  name: text(groups.name, { fold: true }),
  dynamic: flag(sql`${groups.filter} is not null`),
};

const isNamed = (name: string) => eq(sql`lower(${groups.name})`, name.toLowerCase());

/** By name, whatever its case. */
export async function listGroups(db: Db, { filter, after, limit }: Page<[name: string]>): Promise<GroupRow[]> {
  const name = sql`lower(${groups.name})`;
  return db
    .select()
    .from(groups)
    .where(and(filter, after && gt(name, after[0])))
    .orderBy(asc(name))
    .limit(limit);
}

export async function findGroup(db: Db, name: string): Promise<GroupRow | undefined> {
  const [row] = await db.select().from(groups).where(isNamed(name));
  return row;
}

export async function listMembers(db: Db, group: GroupRow, { filter, ...page }: Page<[name: string]>) {
  return listDevices(db, { ...page, filter: and(await findMembership(db, group), filter) });
}

export async function countMembers(db: Db, group: GroupRow): Promise<number> {
  return db.$count(devices, await findMembership(db, group));
}

/** The condition, on `devices`, that one is a member now. */
async function findMembership(db: Db, group: GroupRow) {
  const names = group.filter === null ? [] : groupsNamedBy({ filter: group.filter });
  const { groups: named } = await resolveGroups(db, names);
  return isMember([group], named);
}

/** Undefined when the name is taken, whatever its case. Throws a `FilterFault` on a filter that is none for a group. */
export async function insertGroup(
  db: Db,
  actor: Actor,
  group: { id: string; name: string; description: string; filter: string | null },
): Promise<GroupRow | undefined> {
  return db.transaction(async (tx) => {
    const named = await judgeFilter(tx, group.filter);
    const [row] = await tx.insert(groups).values(group).onConflictDoNothing().returning();
    if (!row) return undefined;
    await refer(tx, row, named);
    const data = row.filter === null ? {} : { filter: row.filter };
    await insertAudit(tx, actor, { action: 'group.created', subject: `group/${row.name}`, data });
    return row;
  });
}

/**
 * Undefined when there is none of this name, or when it has no filter that could be changed: a static group stays one.
 * Throws a `FilterFault` like the insertion.
 */
export async function changeGroup(
  db: Db,
  actor: Actor,
  name: string,
  { description, filter }: { description?: string | undefined; filter?: string | undefined },
): Promise<GroupRow | undefined> {
  return db.transaction(async (tx) => {
    const named = await judgeFilter(tx, filter ?? null);
    const [row] = await tx
      .update(groups)
      .set({
        ...(description !== undefined && { description }),
        ...(filter !== undefined && { filter }),
        updatedAt: sql`now()`,
      })
      .where(and(isNamed(name), filter === undefined ? undefined : isNotNull(groups.filter)))
      .returning();
    if (!row) return undefined;
    if (filter !== undefined) {
      await tx.delete(groupReferences).where(eq(groupReferences.groupId, row.id));
      await refer(tx, row, named);
    }
    const data = filter === undefined ? {} : { filter };
    await insertAudit(tx, actor, { action: 'group.changed', subject: `group/${row.name}`, data });
    return row;
  });
}

/** Throws when the filter is none for a group. Returns the names of the groups that it names: static ones, all of them. */
async function judgeFilter(db: Db, filter: string | null): Promise<string[]> {
  if (filter === null) return [];
  const names = groupsNamedBy({ filter });
  const { groups: named } = await resolveGroups(db, names);
  compileFilter(filter, deviceFields(named, { ofGroup: true }));
  return names;
}

/** Writes down which groups the filter of this one names. They are locked, in order: one that was deleted is not found. */
async function refer(db: Db, group: GroupRow, names: string[]): Promise<void> {
  if (names.length === 0) return;
  const held = await db
    .select({ namedId: groups.id })
    .from(groups)
    .where(and(inArray(sql`lower(${groups.name})`, names), isNull(groups.filter)))
    .orderBy(asc(groups.id))
    .for('key share');
  if (held.length < names.length) throw new FilterFault('a group that it names is being deleted');
  await db.insert(groupReferences).values(held.map(({ namedId }) => ({ groupId: group.id, namedId })));
}

/** False when the filter of another group names it, or there is none of this name. What was made of its members stays. */
export async function deleteGroup(db: Db, actor: Actor, name: string): Promise<boolean> {
  const references = db.select().from(groupReferences).where(eq(groupReferences.namedId, groups.id));
  return db.transaction(async (tx) => {
    // Locked first: a filter that is being written holds the row, and its reference is seen by the next statement.
    await tx.select({ id: groups.id }).from(groups).where(isNamed(name)).for('update');
    const [row] = await tx
      .delete(groups)
      .where(and(isNamed(name), notExists(references)))
      .returning({ name: groups.name });
    if (!row) return false;
    await insertAudit(tx, actor, { action: 'group.deleted', subject: `group/${row.name}`, data: {} });
    return true;
  });
}
