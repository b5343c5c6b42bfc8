import { and, desc, eq, inArray, isNull, sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';
import { rotations, type RotationOutcome, type RotationState } from './rotation-schema.ts';
import { certificates, devices } from './schema.ts';

export type RotationRow = typeof rotations.$inferSelect;
export type RenewingCertificate = typeof certificates.$inferSelect;

/** The policy of a device: that of its template, or the one for all others. */
export const policyOf = (device: SQL) =>
  sql`coalesce((select q.name from rotation_policies q where q.name = ${device}.template), 'default')`;

/** The certificate that a device is to replace: the one that it connected with last for the first time. */
export const isNewest = (c: SQL) => sql`${c}.id = (
  select n.id from certificates n where n.device_id = ${c}.device_id and n.state = 'ACTIVE'
  order by coalesce(n.activated_at, n.issued_at) desc, n.id desc limit 1)`;

/** Whether an authority of ours has issued the certificate, and was not revoked since. */
export const isTrusted = (c: SQL) =>
  sql`exists (select from authorities t where t.id = ${c}.authority_id and t.state <> 'REVOKED')`;

/** Whether a certificate that has ended is ours, and still within the time that its policy, `p`, gives to come back. */
export const isRecoverable = (c: SQL) =>
  sql`(${isTrusted(c)} and ${c}.not_after > now() - make_interval(days => p.recover_within_days))`;

/** The one key that may take the place of a certificate that has ended; null where nobody has granted that, or not any more. */
const recoveringKey = sql<Uint8Array | null>`(
  select r.spki_sha256 from recoveries r join rotation_policies p on p.name = ${policyOf(sql`devices`)}
  where r.certificate_id = certificates.id and r.state = 'GRANTED' and ${isRecoverable(sql`certificates`)})`;

/** A device with the certificate that it asks on, both locked: of two requests, one comes first. */
export async function lockRenewing(db: Db, { deviceId, certificateId }: { deviceId: string; certificateId: string }) {
  const [device] = await db.select().from(devices).where(eq(devices.id, deviceId)).for('no key update');
  const [row] = await db
    .select({
      certificate: certificates,
      isOver: sql<boolean>`${certificates.notAfter} <= now()`,
      recoveringKey,
      isNewest: sql<boolean>`${isNewest(sql`certificates`)}`,
      isDue: sql<boolean>`exists (
        select from rotation_policies p where p.name = ${policyOf(sql`devices`)} and (p.any_time
          or certificate_due(${certificates.notBefore}, ${certificates.notAfter}, ${certificates.deviceId})
            <= now() + make_interval(days => p.earlier_days)
          or ${certificates.manufacturerAuthorityId} is not null
          or exists (select from authorities a where a.id = ${certificates.authorityId} and a.state <> 'ACTIVE')))`,
    })
    .from(certificates)
    .innerJoin(devices, eq(devices.id, certificates.deviceId))
    .where(and(eq(certificates.id, certificateId), eq(certificates.deviceId, deviceId)))
    .for('no key update', { of: certificates });
  return device && row && { device, ...row };
}

/** When the certificate of the device ends. */
export async function findEnd(
  db: Db,
  { deviceId, certificateId }: { deviceId: string; certificateId: string },
): Promise<Date | undefined> {
  const [row] = await db
    .select({ notAfter: certificates.notAfter })
    .from(certificates)
    .where(and(eq(certificates.id, certificateId), eq(certificates.deviceId, deviceId)));
  return row?.notAfter;
}

export async function findDeviceName(db: Db, id: string): Promise<string> {
  const [row] = await db.select({ name: devices.name }).from(devices).where(eq(devices.id, id));
  return row?.name ?? id;
}

export async function findOpenRotation(db: Db, deviceId: string): Promise<RotationRow | undefined> {
  const [row] = await db
    .select()
    .from(rotations)
    .where(and(eq(rotations.deviceId, deviceId), isNull(rotations.finishedAt)));
  return row;
}

export async function findRotation(db: Db, id: string): Promise<RotationRow | undefined> {
  const [row] = await db.select().from(rotations).where(eq(rotations.id, id));
  return row;
}

export async function lockRotation(db: Db, id: string): Promise<RotationRow | undefined> {
  const [row] = await db.select().from(rotations).where(eq(rotations.id, id)).for('update');
  return row;
}

/** The tries of a device, the last first. */
export async function listRotations(db: Db, deviceId: string, limit: number): Promise<RotationRow[]> {
  return db.select().from(rotations).where(eq(rotations.deviceId, deviceId)).orderBy(desc(rotations.id)).limit(limit);
}

/** The certificate that the rotation has issued, when it is for this key. */
export async function findIssuedFor(
  db: Db,
  { newCertificateId }: Pick<RotationRow, 'newCertificateId'>,
  spkiSha256: Uint8Array,
): Promise<RenewingCertificate | undefined> {
  if (!newCertificateId) return undefined;
  const [row] = await db
    .select()
    .from(certificates)
    .where(and(eq(certificates.id, newCertificateId), eq(certificates.spkiSha256, spkiSha256)));
  return row;
}

export async function noteIssued(db: Db, id: string, newCertificateId: string): Promise<void> {
  await db
    .update(rotations)
    .set({ state: 'ISSUED', newCertificateId, issuedAt: sql`now()` })
    .where(and(eq(rotations.id, id), inArray(rotations.state, ['BEGUN', 'ORDERED', 'ISSUED'])));
}

/** Longest pause between two tries. */
const pauseMaxDays = 7;

/**
 * Ends a rotation that is in one of these states; a try that failed is not repeated before a pause, which doubles from a day
 * to a week. False when it is in another state.
 */
export async function finishRotation(
  db: Db,
  { id, outcome, from }: { id: string; outcome: RotationOutcome; from: RotationState[] },
): Promise<boolean> {
  const pause = sql`now() + least(${pauseMaxDays}, power(2, least(${rotations.attempt}, 8) - 1)) * interval '1 day'`;
  const finished = await db
    .update(rotations)
    .set({ state: outcome, finishedAt: sql`now()`, againAt: outcome === 'ROTATED' ? null : pause })
    .where(and(eq(rotations.id, id), inArray(rotations.state, from)))
    .returning({ id: rotations.id });
  return finished.length === 1;
}
