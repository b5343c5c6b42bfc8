import { and, asc, eq, gt, isNull, ne, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import type { Page } from './fields.ts';
import { certificates, devices, feed, presence } from './schema.ts';

export type DeviceRow = typeof devices.$inferSelect;
export type Attributes = Record<string, string>;

const isNamed = (name: string) => eq(sql`lower(${devices.name})`, name.toLowerCase());

/** By name, whatever its case. */
export async function listDevices(db: Db, { filter, after, limit }: Page<[name: string]>): Promise<DeviceRow[]> {
  const name = sql`lower(${devices.name})`;
  return db
    .select()
    .from(devices)
    .where(and(filter, after && gt(name, after[0])))
    .orderBy(asc(name))
    .limit(limit);
}

export async function findDevice(db: Db, name: string) {
  const [row] = await db
    .select({ device: devices, presence })
    .from(devices)
    .leftJoin(presence, eq(presence.deviceId, devices.id))
    .where(isNamed(name));
  return row;
}

export async function countCertificates(db: Db, deviceId: string): Promise<Record<string, number>> {
  const rows = await db
    .select({ state: certificates.state, count: sql<number>`count(*)::int` })
    .from(certificates)
    .where(eq(certificates.deviceId, deviceId))
    .groupBy(certificates.state);
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
}

/** Registers a device ahead of its enrolment; undefined when the name is taken, whatever its case. */
export async function registerAhead(
  db: Db,
  actor: Actor,
  device: { id: string; name: string; attributes: Attributes },
): Promise<DeviceRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .insert(devices)
      .values({ ...device, state: 'REGISTERED' })
      .onConflictDoNothing()
      .returning();
    if (row) await insertAudit(tx, actor, { action: 'device.registered', subject: `device/${row.name}`, data: {} });
    return row;
  });
}

/**
 * Takes the name for an enrolment: a new device, or one that was registered ahead and has no living certificate yet, whose
 * attributes outweigh the template's. Undefined when the device is enrolled or blocked; the caller then rolls back.
 * The row is locked first and its certificates are looked at after, so that of two enrolments one gets it.
 */
export async function adoptDevice(
  db: Db,
  device: { id: string; name: string; template: string; attributes: Attributes },
): Promise<{ id: string; name: string } | undefined> {
  const [row] = await db.execute<{ id: string; name: string }>(sql`
    insert into devices (id, name, template, state, attributes)
    values (${device.id}, ${device.name}, ${device.template}, 'REGISTERED', ${JSON.stringify(device.attributes)}::jsonb)
    on conflict (lower(name)) do update
    set template = excluded.template, attributes = excluded.attributes || devices.attributes, updated_at = now()
    where devices.state = 'REGISTERED'
    returning id, name`);
  if (!row) return undefined;
  const [living] = await db
    .select({ id: certificates.id })
    .from(certificates)
    .where(and(eq(certificates.deviceId, row.id), ne(certificates.state, 'REVOKED')))
    .limit(1);
  return living ? undefined : row;
}

/** Sets and removes attributes; `judge` sees what they would be and may throw. Undefined when there is no such device any more. */
export async function changeAttributes(
  db: Db,
  actor: Actor,
  name: string,
  { set, remove, judge }: { set: Attributes; remove: string[]; judge: (attributes: Attributes) => void },
): Promise<DeviceRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(devices)
      .set({
        attributes: sql`(${devices.attributes} || ${JSON.stringify(set)}::jsonb) - ${sql.param(remove)}::text[]`,
        updatedAt: sql`now()`,
      })
      .where(and(isNamed(name), isNull(devices.decommissionedAt)))
      .returning();
    if (!row) return undefined;
    judge(row.attributes);
    const attributes = [...Object.keys(set), ...remove];
    await insertAudit(tx, actor, { action: 'device.changed', subject: `device/${row.name}`, data: { attributes } });
    return row;
  });
}

/** Blocks the device and puts it on the feed that every gateway follows. Undefined when it is blocked, or unknown. */
export async function blockDevice(db: Db, actor: Actor, name: string, reason?: string): Promise<DeviceRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(devices)
      .set({ state: 'BLOCKED', updatedAt: sql`now()` })
      .where(and(isNamed(name), ne(devices.state, 'BLOCKED')))
      .returning();
    if (!row) return undefined;
    await tx.insert(feed).values({ kind: 'device', subject: row.id });
    const data = reason === undefined ? {} : { reason };
    await insertAudit(tx, actor, { action: 'device.blocked', subject: `device/${row.name}`, data });
    return row;
  });
}

/** Gives the device back the state that its certificates say. Undefined when it is not blocked, is so for good, or unknown. */
export async function unblockDevice(db: Db, actor: Actor, name: string): Promise<DeviceRow | undefined> {
  const hasActive = sql`exists (select from ${certificates} where ${certificates.deviceId} = ${devices.id} and ${certificates.state} = 'ACTIVE')`;
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(devices)
      .set({ state: sql`case when ${hasActive} then 'ACTIVE' else 'REGISTERED' end`, updatedAt: sql`now()` })
      .where(and(isNamed(name), eq(devices.state, 'BLOCKED'), isNull(devices.decommissionedAt)))
      .returning();
    if (!row) return undefined;
    await tx.insert(feed).values({ kind: 'device', subject: row.id });
    await insertAudit(tx, actor, { action: 'device.unblocked', subject: `device/${row.name}`, data: {} });
    return row;
  });
}
