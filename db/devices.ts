import { and, asc, eq, gt, isNull, ne, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import type { Page } from './fields.ts';
import { certificates, devices, presence } from './schema.ts';

export type DeviceRow = typeof devices.$inferSelect;
export type Attributes = Record<string, string>;

export const isNamed = (name: string) => eq(sql`lower(${devices.name})`, name.toLowerCase());

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

/** A device that an enrolment found under its name: `enrolled` when it has a living certificate, is in service or blocked. */
export type NamedDevice = { id: string; name: string; blocked: boolean; enrolled: boolean };

/** The device of this name, locked; its certificates are looked at after, so that of two enrolments one gets it. */
export async function lockDeviceNamed(db: Db, name: string): Promise<NamedDevice | undefined> {
  const [row] = await db
    .select({ id: devices.id, name: devices.name, state: devices.state })
    .from(devices)
    .where(isNamed(name))
    .for('update');
  if (!row) return undefined;
  const [living] = await db
    .select({ id: certificates.id })
    .from(certificates)
    .where(and(eq(certificates.deviceId, row.id), ne(certificates.state, 'REVOKED')))
    .limit(1);
  const { state, ...device } = row;
  return { ...device, blocked: state === 'BLOCKED', enrolled: state !== 'REGISTERED' || living !== undefined };
}

type Enrolling = { id: string; name: string; template: string; attributes: Attributes };

/** A new device; undefined when the name is taken. */
export async function insertEnrolling(db: Db, device: Enrolling): Promise<{ id: string; name: string } | undefined> {
  const [row] = await db
    .insert(devices)
    .values({ ...device, state: 'REGISTERED' })
    .onConflictDoNothing()
    .returning({ id: devices.id, name: devices.name });
  return row;
}

/** Gives a device that was there before its template; its own attributes outweigh the template's. */
export async function adoptDevice(
  db: Db,
  id: string,
  { template, attributes }: Omit<Enrolling, 'id' | 'name'>,
): Promise<void> {
  await db
    .update(devices)
    .set({
      template,
      attributes: sql`${JSON.stringify(attributes)}::jsonb || ${devices.attributes}`,
      updatedAt: sql`now()`,
    })
    .where(eq(devices.id, id));
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
