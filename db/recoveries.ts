import { and, asc, desc, eq, gt, inArray, lt, lte, or, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { instant, text, word, type Fields, type Page } from './fields.ts';
import { recoveries, recoveryStates, type RecoveryState } from './recovery-schema.ts';
import { rotationPolicies } from './rotation-schema.ts';
import { isNewest, isRecoverable, isTrusted, policyOf } from './rotations.ts';
import { certificates, devices, events } from './schema.ts';

export type RecoveryRow = typeof recoveries.$inferSelect;

/** The policy of the device, locked: of two that ask at once, the second counts the first. */
export async function lockPolicyOf(db: Db, deviceId: string) {
  const [row] = await db
    .select({ policy: rotationPolicies })
    .from(rotationPolicies)
    .innerJoin(devices, sql`${rotationPolicies.name} = ${policyOf(sql`devices`)}`)
    .where(eq(devices.id, deviceId))
    .for('no key update', { of: rotationPolicies });
  return row?.policy;
}

export type RecoveryRefusal =
  | 'CertificateRevoked'
  | 'DeviceBlocked'
  | 'CertificateNotActive'
  | 'CertificateSuperseded'
  | 'AuthorityRetired'
  | 'CertificateExpired';

/** What speaks against the certificate; undefined when it is not the device's. */
export async function judgeRecovering(
  db: Db,
  { deviceId, certificateId }: { deviceId: string; certificateId: string },
): Promise<{ refusal: RecoveryRefusal | null } | undefined> {
  const [row] = await db.execute<{ refusal: RecoveryRefusal | null }>(sql`
    select case
      when c.state = 'REVOKED' then 'CertificateRevoked'
      when d.state = 'BLOCKED' then 'DeviceBlocked'
      when c.state <> 'ACTIVE' then 'CertificateNotActive'
      when not ${isNewest(sql`c`)} then 'CertificateSuperseded'
      when not ${isTrusted(sql`c`)} then 'AuthorityRetired'
      when c.not_after > now() or not ${isRecoverable(sql`c`)} then 'CertificateExpired'
    end as refusal
    from certificates c join devices d on d.id = c.device_id join rotation_policies p on p.name = ${policyOf(sql`d`)}
    where c.id = ${certificateId} and c.device_id = ${deviceId}::uuid`);
  return row;
}

/** How many have asked under the policy within a minute. */
export async function countRecent(db: Db, policy: string): Promise<number> {
  return db.$count(
    recoveries,
    and(eq(recoveries.policy, policy), gt(recoveries.askedAt, sql`now() - interval '1 minute'`)),
  );
}

export type NewRecovery = Pick<RecoveryRow, 'certificateId' | 'deviceId' | 'spkiSha256' | 'policy'> & {
  device: string;
  state: 'WAITING' | 'GRANTED';
};

/** Keeps that the device has asked, for this key and no other, and tells whoever watches. */
export async function askRecovery(db: Db, { device, ...asked }: NewRecovery): Promise<void> {
  const isGranted = asked.state === 'GRANTED';
  const policy = `rotation-policy/${asked.policy}`;
  const decided = { decidedBy: isGranted ? policy : null, decidedAt: isGranted ? sql`now()` : null };
  const row = { ...asked, ...decided, askedAt: sql`now()` };
  await db.insert(recoveries).values(row).onConflictDoUpdate({ target: recoveries.certificateId, set: row });
  const subject = `certificate/${asked.certificateId}`;
  const spkiSha256 = Buffer.from(asked.spkiSha256).toString('hex');
  await insertAudit(db, `device/${device}`, { action: 'recovery.asked', subject, data: { device, spkiSha256 } });
  if (isGranted) await insertAudit(db, policy, { action: 'recovery.granted', subject, data: { device } });
  await tell(db, isGranted ? 'recovery.granted' : 'recovery.waiting', { ...asked, device });
}

type Told = Pick<RecoveryRow, 'certificateId' | 'deviceId'> & { device: string };

async function tell(db: Db, kind: string, { certificateId, deviceId, device }: Told): Promise<void> {
  const subject = `certificate/${certificateId}`;
  const event = { id: sql`uuid_now()`, kind, deviceId, subject, data: { certificateId, device } };
  await db.insert(events).values({ ...event, xid: sql`pg_current_xact_id()` });
}

/**
 * An operator's word on a device that waits; one that was denied may be granted after all. False when there is nothing to
 * decide.
 */
export async function decideRecovery(
  db: Db,
  actor: Actor,
  { certificateId, state }: { certificateId: string; state: 'GRANTED' | 'DENIED' },
): Promise<boolean> {
  return db.transaction(async (tx) => {
    const from: RecoveryState[] = state === 'GRANTED' ? ['WAITING', 'DENIED'] : ['WAITING'];
    const [row] = await tx
      .update(recoveries)
      .set({ state, decidedBy: actor, decidedAt: sql`now()` })
      .where(and(eq(recoveries.certificateId, certificateId), inArray(recoveries.state, from)))
      .returning();
    if (!row) return false;
    const [named] = await tx.select({ name: devices.name }).from(devices).where(eq(devices.id, row.deviceId));
    const device = named?.name ?? row.deviceId;
    const action = state === 'GRANTED' ? 'recovery.granted' : 'recovery.denied';
    await insertAudit(tx, actor, { action, subject: `certificate/${certificateId}`, data: { device } });
    await tell(tx, action, { ...row, device });
    return true;
  });
}

/** What GET /recoveries may be filtered by, each with its index. */
export const recoveryFields: Fields = {
  certificateId: text(recoveries.certificateId),
  state: word(recoveries.state, recoveryStates),
  askedAt: instant(recoveries.askedAt),
};

const columns = { recovery: recoveries, device: devices.name, notAfter: certificates.notAfter };

export async function findRecovery(db: Db, certificateId: string) {
  const [row] = await db
    .select(columns)
    .from(recoveries)
    .innerJoin(devices, eq(devices.id, recoveries.deviceId))
    .innerJoin(certificates, eq(certificates.id, recoveries.certificateId))
    .where(eq(recoveries.certificateId, certificateId));
  return row;
}

/** The youngest first. */
export async function listRecoveries(db: Db, { filter, after, limit }: Page<[askedAt: string, id: string]>) {
  const { askedAt, certificateId } = recoveries;
  const key = after && ([new Date(after[0]), after[1]] as const);
  return (
    db
      .select(columns)
      .from(recoveries)
      .innerJoin(devices, eq(devices.id, recoveries.deviceId))
      .innerJoin(certificates, eq(certificates.id, recoveries.certificateId))
      // Two conditions, because the index goes down by one column and up by the other.
      .where(and(filter, key && and(lte(askedAt, key[0]), or(lt(askedAt, key[0]), gt(certificateId, key[1])))))
      .orderBy(desc(askedAt), asc(certificateId))
      .limit(limit)
  );
}
