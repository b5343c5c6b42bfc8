import { and, asc, eq, gt, isNotNull, ne, or, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { isNamed, type DeviceRow } from './devices.ts';
import { blocks } from './enrolment-schema.ts';
import { text, word, type Fields, type Page } from './fields.ts';
import { registeredDevices } from './registration-schema.ts';
import { certificates, devices, feed } from './schema.ts';

export type BlockRow = typeof blocks.$inferSelect;
/** Whom a block may be about: a device by its name, a key by the SHA-256 of its SPKI. */
export type Suspect = { name?: string; spkiSha256?: Uint8Array };
export type NewBlock = { name: string; keys: string[]; reason?: string | undefined };

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/**
 * The block that stands against a name or a key, whatever permits them. Every door asks here. In a transaction that goes on
 * to enrol, a block that is being written at the same moment is waited for: one of the two comes first.
 */
export async function findBlock(db: Db, { name, spkiSha256 }: Suspect): Promise<BlockRow | undefined> {
  const subjects = [
    ...(name === undefined ? [] : [{ kind: 'device' as const, subject: name.toLowerCase() }]),
    ...(spkiSha256 === undefined ? [] : [{ kind: 'key' as const, subject: hex(spkiSha256) }]),
  ];
  // By name alone: a block of a key is always written with a device's, under the lock of its name.
  if (name !== undefined) await db.execute(sql`select pg_advisory_xact_lock_shared(hashtext(${lockOf(name)}))`);
  const [row] = await db
    .select()
    .from(blocks)
    .where(or(...subjects.map(({ kind, subject }) => and(eq(blocks.kind, kind), eq(blocks.subject, subject)))))
    .limit(1);
  return row;
}

const lockOf = (name: string) => `block/${name.toLowerCase()}`;

/**
 * Writes a block of a device's name and of keys (SHA-256 in hex), in the transaction that it is given. It needs no row of
 * the device, and outlives it; one that stands already stays as it is.
 */
export async function writeBlock(db: Db, actor: Actor, { name, keys, reason }: NewBlock): Promise<void> {
  await db.execute(sql`select pg_advisory_xact_lock(hashtext(${lockOf(name)}))`);
  const subjects = [
    { kind: 'device' as const, subject: name.toLowerCase() },
    ...keys.map((key) => ({ kind: 'key' as const, subject: key })),
  ];
  await db
    .insert(blocks)
    .values(subjects.map((subject) => ({ ...subject, device: name.toLowerCase(), actor, reason: reason ?? null })))
    .onConflictDoNothing();
}

/** By the SHA-256 of its SPKI, in hex: each that a certificate of the device holds, or held in service, or that is registered for it. */
async function listKeys(db: Db, deviceId: string): Promise<string[]> {
  const wasInService = or(ne(certificates.state, 'REVOKED'), isNotNull(certificates.activatedAt));
  const rows = await db
    .selectDistinct({ spkiSha256: certificates.spkiSha256 })
    .from(certificates)
    .where(and(eq(certificates.deviceId, deviceId), wasInService));
  const [registered] = await db
    .select({ spkiSha256: registeredDevices.spkiSha256 })
    .from(registeredDevices)
    .where(eq(registeredDevices.deviceId, deviceId));
  const keys = rows.map((row) => hex(row.spkiSha256));
  return registered?.spkiSha256 ? [...new Set([...keys, hex(registered.spkiSha256)])] : keys;
}

/**
 * Blocks the device, its name and its keys, and puts it on the feed that every gateway follows. Undefined when it is
 * blocked, or unknown.
 */
export async function blockDevice(db: Db, actor: Actor, name: string, reason?: string): Promise<DeviceRow | undefined> {
  return db.transaction(async (tx) => {
    const [found] = await tx.select({ id: devices.id }).from(devices).where(isNamed(name));
    if (!found) return undefined;
    await writeBlock(tx, actor, { name, keys: await listKeys(tx, found.id), reason });
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

export type Unblocked = { row?: DeviceRow };

/**
 * Takes the block of the name and its keys away, and gives the device, when there still is one, back the state that its
 * certificates say. Undefined when nothing of this name is blocked, or it is so for good.
 */
export async function unblockDevice(db: Db, actor: Actor, name: string): Promise<Unblocked | undefined> {
  const hasActive = sql`exists (select from ${certificates} where ${certificates.deviceId} = ${devices.id} and ${certificates.state} = 'ACTIVE')`;
  return db.transaction(async (tx) => {
    const [left] = await tx
      .select({ id: devices.id })
      .from(devices)
      .where(and(isNamed(name), isNotNull(devices.decommissionedAt)));
    if (left) return undefined;
    const gone = await tx
      .delete(blocks)
      .where(eq(blocks.device, name.toLowerCase()))
      .returning({ subject: blocks.subject });
    const [row] = await tx
      .update(devices)
      .set({ state: sql`case when ${hasActive} then 'ACTIVE' else 'REGISTERED' end`, updatedAt: sql`now()` })
      .where(and(isNamed(name), eq(devices.state, 'BLOCKED')))
      .returning();
    if (!row && gone.length === 0) return undefined;
    if (row) await tx.insert(feed).values({ kind: 'device', subject: row.id });
    await insertAudit(tx, actor, { action: 'device.unblocked', subject: `device/${row?.name ?? name}`, data: {} });
    return row ? { row } : {};
  });
}

/** What GET /blocks may be filtered by. */
export const blockFields: Fields = {
  kind: word(blocks.kind, ['device', 'key']),
  subject: text(blocks.subject, { fold: true }),
};

/** By kind and subject. */
export async function listBlocks(
  db: Db,
  { filter, after, limit }: Page<[kind: string, subject: string]>,
): Promise<BlockRow[]> {
  // The key of a page is that of a row which was read before.
  const behind = after && gt(sql`(${blocks.kind}, ${blocks.subject})`, sql`(${after[0]}::text, ${after[1]}::text)`);
  return db
    .select()
    .from(blocks)
    .where(and(filter, behind))
    .orderBy(asc(blocks.kind), asc(blocks.subject))
    .limit(limit);
}
