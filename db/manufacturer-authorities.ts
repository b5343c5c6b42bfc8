import { and, desc, eq, getTableColumns, gt, isNotNull, lt, lte, ne, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { insertClaim, revokeClaim, type NewClaim } from './claims.ts';
import type { Db } from './client.ts';
import { claims } from './enrolment-schema.ts';
import { instant, text, word, type Fields, type Page } from './fields.ts';
import { manufacturerAuthorities, manufacturerCodes } from './manufacturer-schema.ts';
import { authorities, certificates } from './schema.ts';

export type ManufacturerAuthorityRow = typeof manufacturerAuthorities.$inferSelect & { template: string };
export type NewManufacturerAuthority = Pick<
  ManufacturerAuthorityRow,
  'id' | 'name' | 'subject' | 'certificatePem' | 'fingerprint' | 'spkiSha256' | 'notBefore' | 'notAfter'
>;

/** Active ones: each is named in every handshake, where clients have little room. */
export const manufacturerAuthoritiesMax = 100;
/** Codes that wait to be signed. */
export const codesMax = 100;

/** What GET /manufacturer-authorities may be filtered by; there are few. */
export const manufacturerAuthorityFields: Fields = {
  name: text(manufacturerAuthorities.name),
  template: text(claims.template),
  state: word(manufacturerAuthorities.state, ['ACTIVE', 'RETIRED']),
  notAfter: instant(manufacturerAuthorities.notAfter),
};

const select = (db: Db) =>
  db
    .select({ ...getTableColumns(manufacturerAuthorities), template: claims.template })
    .from(manufacturerAuthorities)
    .innerJoin(claims, eq(claims.id, manufacturerAuthorities.claimId));

const isTrusted = and(eq(manufacturerAuthorities.state, 'ACTIVE'), gt(manufacturerAuthorities.notAfter, sql`now()`));

/** The youngest first. */
export async function listManufacturerAuthorities(
  db: Db,
  { filter, after, limit }: Page<[id: string]>,
): Promise<ManufacturerAuthorityRow[]> {
  return select(db)
    .where(and(filter, after && lt(manufacturerAuthorities.id, after[0])))
    .orderBy(desc(manufacturerAuthorities.id))
    .limit(limit);
}

export async function findManufacturerAuthority(db: Db, id: string): Promise<ManufacturerAuthorityRow | undefined> {
  const [row] = await select(db).where(eq(manufacturerAuthorities.id, id));
  return row;
}

/** The authority whose devices this claim is for. */
export async function findManufacturerOfClaim(db: Db, claimId: string): Promise<ManufacturerAuthorityRow | undefined> {
  const [row] = await select(db).where(eq(manufacturerAuthorities.claimId, claimId));
  return row;
}

/** Those whose devices may enrol now, the youngest first. */
export async function listTrustedManufacturers(db: Db): Promise<ManufacturerAuthorityRow[]> {
  return select(db).where(isTrusted).orderBy(desc(manufacturerAuthorities.id));
}

/** Everything that a handshake with a device may end at, in PEM and in one order: authorities of ours, and trusted manufacturers'. */
export async function listTrustAnchors(db: Db): Promise<string[]> {
  const ours = db.select({ pem: authorities.certificatePem }).from(authorities);
  const theirs = db.select({ pem: manufacturerAuthorities.certificatePem }).from(manufacturerAuthorities);
  const rows = await ours.unionAll(theirs.where(isTrusted));
  return rows.map(({ pem }) => pem).toSorted();
}

/** A code for one registration; false when too many wait already. Those that are over are forgotten. */
export async function insertCode(
  db: Db,
  actor: Actor,
  { code, expiresAt }: { code: string; expiresAt: Date },
): Promise<boolean> {
  return db.transaction(async (tx) => {
    await takeTurn(tx);
    await tx.delete(manufacturerCodes).where(lte(manufacturerCodes.expiresAt, sql`now()`));
    if ((await tx.$count(manufacturerCodes)) >= codesMax) return false;
    await tx.insert(manufacturerCodes).values({ code, expiresAt, createdBy: actor });
    const data = { expiresAt: expiresAt.toISOString() };
    const subject = `manufacturer-code/${code.slice(0, 8)}`;
    await insertAudit(tx, actor, { action: 'manufacturer-code.created', subject, data });
    return true;
  });
}

/** `code`: it is unknown, over, or was used. `template`: there is none of this name. */
export type Unregistered = 'registered' | 'too-many' | 'code' | 'template';

/** The authority with its claim, for a code that nobody has used: it is used up with the registration, and only then. */
export async function registerManufacturerAuthority(
  db: Db,
  actor: Actor,
  { code, authority, claim }: { code: string; authority: NewManufacturerAuthority; claim: NewClaim },
): Promise<ManufacturerAuthorityRow | Unregistered> {
  return db.transaction(async (tx) => {
    await takeTurn(tx);
    const { state, fingerprint } = manufacturerAuthorities;
    const isActive = eq(state, 'ACTIVE');
    const isSame = and(isActive, eq(fingerprint, authority.fingerprint));
    if ((await tx.$count(manufacturerAuthorities, isSame)) > 0) return 'registered';
    if ((await tx.$count(manufacturerAuthorities, isActive)) >= manufacturerAuthoritiesMax) return 'too-many';
    const isGood = and(eq(manufacturerCodes.code, code), gt(manufacturerCodes.expiresAt, sql`now()`));
    if ((await tx.$count(manufacturerCodes, isGood)) === 0) return 'code';
    if (!(await insertClaim(tx, actor, claim, { manufacturer: true }))) return 'template';
    await tx.delete(manufacturerCodes).where(isGood);
    const [row] = await tx
      .insert(manufacturerAuthorities)
      .values({ ...authority, claimId: claim.id, state: 'ACTIVE', createdBy: actor })
      .returning();
    if (!row) throw new Error('an authority was inserted and not returned');
    const { template } = claim;
    const data = { template, claimId: claim.id, notAfter: row.notAfter.toISOString() };
    const subject = `manufacturer-authority/${row.id}`;
    await insertAudit(tx, actor, { action: 'manufacturer-authority.registered', subject, data });
    return { ...row, template };
  });
}

/** Registrations come one after the other, so that what is counted stays true. */
const takeTurn = (tx: Db) => tx.execute(sql`select pg_advisory_xact_lock(hashtext('manufacturer-authorities'))`);

/** Trusts the authority no more, and lets nobody in under its claim. False when it is retired already, or unknown. */
export async function retireManufacturerAuthority(db: Db, actor: Actor, id: string): Promise<boolean> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(manufacturerAuthorities)
      .set({ state: 'RETIRED', retiredAt: sql`now()` })
      .where(and(eq(manufacturerAuthorities.id, id), eq(manufacturerAuthorities.state, 'ACTIVE')))
      .returning({ claimId: manufacturerAuthorities.claimId });
    if (!row) return false;
    await revokeClaim(tx, actor, row.claimId);
    const subject = `manufacturer-authority/${id}`;
    await insertAudit(tx, actor, { action: 'manufacturer-authority.retired', subject, data: {} });
    return true;
  });
}

/** How many devices live by a certificate of this authority, and not by one of ours. */
export async function countAdoptedUnder(db: Db, id: string): Promise<number> {
  const { manufacturerAuthorityId, deviceId, state } = certificates;
  const [row] = await db
    .select({ count: sql<number>`count(distinct ${deviceId})::int` })
    .from(certificates)
    .where(and(eq(manufacturerAuthorityId, id), isNotNull(deviceId), ne(state, 'REVOKED')));
  return row?.count ?? 0;
}

/**
 * Forgets a certificate that was adopted and never used, so that its device may come again: it is the device's for good, and
 * not ours to take back. False when it was used.
 */
export async function forgetAdopted(db: Db, certificateId: string): Promise<boolean> {
  const gone = await db
    .delete(certificates)
    .where(
      and(
        eq(certificates.id, certificateId),
        eq(certificates.state, 'PENDING_ACTIVATION'),
        isNotNull(certificates.manufacturerAuthorityId),
      ),
    )
    .returning({ id: certificates.id });
  return gone.length === 1;
}
