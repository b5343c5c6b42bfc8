import { createHash } from 'node:crypto';
import { and, desc, eq, gt, inArray, lt, or, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { instant, text, uuidField, word, type Fields, type Page } from './fields.ts';
import { claims, enrolments, templates, type AskedRegistration, type EnrolmentState } from './enrolment-schema.ts';
import { authorities, certificates, devices } from './schema.ts';

export type EnrolmentRow = typeof enrolments.$inferSelect;

/** The key of an enrolment: the same claim and public key (SPKI, DER) give the same, everywhere and at any time. */
export const enrolmentKey = (claimId: string, publicKey: Uint8Array) =>
  createHash('sha256').update(claimId).update(publicKey).digest('hex').slice(0, 32);

/** What tells one registration from another: the same template and parameters, in any order, give the same. */
export const registrationHash = ({ template, parameters }: AskedRegistration) =>
  createHash('sha256')
    .update(JSON.stringify([template, Object.entries(parameters).toSorted(([a], [b]) => (a < b ? -1 : 1))]))
    .digest();

const open: EnrolmentState[] = ['ISSUED', 'WAITING_FOR_APPROVAL', 'REGISTERED'];

/** The enrolment that the same claim and key has: one that is open, or that was activated or denied within its time. */
export async function findEnrolmentByKey(db: Db, key: string): Promise<EnrolmentRow | undefined> {
  const isRecent = and(inArray(enrolments.state, ['ACTIVATED', 'DENIED']), gt(enrolments.closesAt, sql`now()`));
  const [row] = await db
    .select()
    .from(enrolments)
    .where(and(eq(enrolments.key, key), or(inArray(enrolments.state, open), isRecent)))
    .orderBy(desc(enrolments.id))
    .limit(1);
  return row;
}

/** The enrolment with the template that decides its registration, locked until the transaction ends. */
export async function lockEnrolment(db: Db, id: string) {
  const [row] = await db
    .select({
      enrolment: enrolments,
      claim: claims,
      definition: templates.definition,
      isOver: sql<boolean>`${enrolments.closesAt} <= now()`,
    })
    .from(enrolments)
    .innerJoin(templates, eq(templates.name, enrolments.template))
    .innerJoin(claims, eq(claims.id, enrolments.claimId))
    .where(eq(enrolments.id, id))
    .for('update', { of: enrolments });
  return row;
}

/** The issued chain, leaf first: what the device is given. Of one that was adopted, it alone. */
export async function findIssuedChain(db: Db, certificateId: string): Promise<string | undefined> {
  const [row] = await db
    .select({ chain: sql<string>`${certificates.pem} || coalesce(${authorities.certificatePem}, '')` })
    .from(certificates)
    .leftJoin(authorities, eq(authorities.id, certificates.authorityId))
    .where(eq(certificates.id, certificateId));
  return row?.chain;
}

/** Of two for the same claim and key, the second throws: tried again, it finds the first. */
export async function insertEnrolment(db: Db, row: typeof enrolments.$inferInsert): Promise<EnrolmentRow> {
  const [inserted] = await db.insert(enrolments).values(row).returning();
  if (!inserted) throw new Error('an enrolment was inserted and not returned');
  return inserted;
}

export async function markRegistered(
  db: Db,
  id: string,
  registered: Pick<
    EnrolmentRow,
    'deviceId' | 'registrationHash' | 'answer' | 'supersedes' | 'certificateId' | 'closesAt'
  >,
): Promise<void> {
  await db
    .update(enrolments)
    .set({ state: 'REGISTERED', ...registered, updatedAt: sql`now()` })
    .where(and(eq(enrolments.id, id), inArray(enrolments.state, ['ISSUED', 'WAITING_FOR_APPROVAL'])));
}

/** What it has made of a certificate that is forgotten is forgotten with it. */
export async function detachCertificate(db: Db, id: string): Promise<void> {
  await db.update(enrolments).set({ certificateId: null }).where(eq(enrolments.id, id));
}

export async function markLapsed(db: Db, id: string): Promise<void> {
  await db
    .update(enrolments)
    .set({ state: 'LAPSED', updatedAt: sql`now()` })
    .where(and(eq(enrolments.id, id), inArray(enrolments.state, open)));
}

/**
 * Takes one slot of the claim's budget and one of its rate; false when it has none left, has expired or is revoked.
 * The bucket fills with `rate_per_minute` a minute, up to that many.
 */
export async function takeClaimSlot(db: Db, claimId: string): Promise<boolean> {
  const filled = sql`least(${claims.ratePerMinute}, ${claims.rateLeft} + extract(epoch from now() - ${claims.rateAt}) / 60 * ${claims.ratePerMinute})`;
  const taken = await db
    .update(claims)
    .set({ uses: sql`${claims.uses} + 1`, rateLeft: sql`${filled} - 1`, rateAt: sql`now()` })
    .where(
      and(
        eq(claims.id, claimId),
        sql`${claims.uses} < ${claims.usesMax}`,
        sql`${claims.expiresAt} > now()`,
        sql`${claims.revokedAt} is null`,
        sql`${filled} >= 1`,
      ),
    )
    .returning({ id: claims.id });
  return taken.length === 1;
}

/** A device that never came gives its slot back; what it took of the rate stays taken. */
export async function releaseClaimSlot(db: Db, claimId: string): Promise<void> {
  await db
    .update(claims)
    .set({ uses: sql`greatest(0, ${claims.uses} - 1)` })
    .where(eq(claims.id, claimId));
}

export const enrolmentStates: EnrolmentState[] = [...open, 'ACTIVATED', 'LAPSED', 'DENIED'];

/** What GET /enrolments may be filtered by, each with its index. */
export const enrolmentFields: Fields = {
  claimId: uuidField(enrolments.claimId),
  certificateId: text(enrolments.certificateId),
  template: text(enrolments.template),
  state: word(enrolments.state, enrolmentStates),
  createdAt: instant(enrolments.createdAt, { id: enrolments.id }),
};

/** The youngest first. */
export async function listEnrolments(db: Db, { filter, after, limit }: Page<[id: string]>) {
  return db
    .select({ enrolment: enrolments, device: devices.name })
    .from(enrolments)
    .leftJoin(devices, eq(devices.id, enrolments.deviceId))
    .where(and(filter, after && lt(enrolments.id, after[0])))
    .orderBy(desc(enrolments.id))
    .limit(limit);
}

export async function findEnrolment(db: Db, id: string) {
  const [row] = await db
    .select({ enrolment: enrolments, device: devices.name })
    .from(enrolments)
    .leftJoin(devices, eq(devices.id, enrolments.deviceId))
    .where(eq(enrolments.id, id));
  return row;
}
