import { and, eq, inArray, ne, or, sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';
import { deviceFields, isMember } from './device-fields.ts';
import type { Fields } from './fields.ts';
import { compileFilter, FilterFault, listValues } from './filters.ts';
import type { GroupRow } from './groups.ts';
import { groupReferences, groups as groupsTable } from './rollout-schema.ts';
import { devices } from './schema.ts';

/** Which devices: those of any of the parts. */
export type Targets = { devices?: string[] | undefined; groups?: string[] | undefined; filter?: string | undefined };

const groupsMax = 50;

/** The groups that the targets, or the filter of them, name. Throws a `FilterFault` on too many, and on a bad filter. */
export function groupsNamedBy({ groups = [], filter }: Targets): string[] {
  const named = [...groups, ...(filter === undefined ? [] : listValues(filter, 'group'))];
  const names = [...new Set(named.map((name) => name.toLowerCase()))];
  if (names.length > groupsMax) throw new FilterFault(`at most ${groupsMax} groups are named`);
  return names;
}

/**
 * The groups of these names, whatever their case, together with those that their filters name: all that it takes to
 * compile them. `unknown` are the names, as they were given, of which there is no group.
 */
export async function resolveGroups(db: Db, names: string[]): Promise<{ groups: GroupRow[]; unknown: string[] }> {
  if (names.length === 0) return { groups: [], unknown: [] };
  const wanted = names.map((name) => name.toLowerCase());
  const isWanted = inArray(sql`lower(${groupsTable.name})`, wanted);
  const referred = db
    .select({ id: groupReferences.namedId })
    .from(groupReferences)
    .innerJoin(groupsTable, eq(groupsTable.id, groupReferences.groupId))
    .where(isWanted);
  const rows = await db
    .select()
    .from(groupsTable)
    .where(or(isWanted, inArray(groupsTable.id, referred)));
  const known = new Set(rows.map(({ name }) => name.toLowerCase()));
  return { groups: rows, unknown: names.filter((name) => !known.has(name.toLowerCase())) };
}

/** What a filter over devices may name, with the groups that it does. */
export async function findDeviceFields(db: Db, filter: string): Promise<Fields> {
  const { groups } = await resolveGroups(db, groupsNamedBy({ filter }));
  return deviceFields(groups);
}

/**
 * The condition, on the table `devices` by its own name, that a device is a target. Blocked devices never are, and where
 * nothing is asked for, nobody is. `groups` are those of `resolveGroups(db, groupsNamedBy(targets))`, read in the same
 * transaction; a group that is not among them, and a filter that is not understood, throw a `FilterFault`.
 */
export function targetCondition(targets: Targets, groups: GroupRow[]): SQL {
  const parts = partsOf(targets, groups);
  const [only] = parts;
  // `and` of two conditions is a condition.
  if (parts.length === 1 && only) return and(ne(devices.state, 'BLOCKED'), only) as SQL;
  // Each part finds its devices by its own index; behind an `or`, none could.
  const found = parts.map((part) => sql`select ${devices.id} from ${devices} where ${part}`);
  const any = parts.length === 0 ? sql`false` : sql`${devices.id} in (${sql.join(found, sql` union all `)})`;
  return and(ne(devices.state, 'BLOCKED'), any) as SQL;
}

function partsOf({ devices: names = [], groups: groupNames = [], filter }: Targets, groups: GroupRow[]): SQL[] {
  const wanted = groupNames.map((name) => findGroup(groups, name));
  const listed = wanted.filter((row) => row.filter === null);
  const dynamic = wanted.filter((row) => row.filter !== null);
  return [
    ...(names.length > 0 ? [isNamed(names)] : []),
    ...(listed.length > 0 ? [isMember(listed, groups)] : []),
    ...dynamic.map((row) => isMember([row], groups)),
    ...(filter === undefined ? [] : [compileFilter(filter, deviceFields(groups))]),
  ];
}

function findGroup(groups: GroupRow[], name: string): GroupRow {
  const row = groups.find((candidate) => candidate.name.toLowerCase() === name.toLowerCase());
  if (row) return row;
  throw new FilterFault(`there is no group ${name}`);
}

const isNamed = (names: string[]) =>
  sql`lower(${devices.name}) = any (${sql.param(names.map((name) => name.toLowerCase()))}::text[])`;

export async function countTargets(db: Db, targets: Targets, groups: GroupRow[]): Promise<number> {
  return db.$count(devices, targetCondition(targets, groups));
}

/** Those of the names, as they were given, that no device has. */
export async function listUnknownDevices(db: Db, names: string[]): Promise<string[]> {
  const rows = await db.select({ name: devices.name }).from(devices).where(isNamed(names));
  const known = new Set(rows.map(({ name }) => name.toLowerCase()));
  return names.filter((name) => !known.has(name.toLowerCase()));
}
