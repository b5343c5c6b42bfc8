import { and, desc, eq, isNull, lt, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { insertCertificate, revokeCertificate, type CertificateRow } from './certificates.ts';
import type { Db } from './client.ts';
import { flag, instant, text, word, type Fields, type Page } from './fields.ts';
import { claims, templates } from './enrolment-schema.ts';

export type ClaimRow = typeof claims.$inferSelect;
export type NewClaim = Pick<
  ClaimRow,
  'id' | 'template' | 'usesMax' | 'ratePerMinute' | 'expiresAt' | 'deviceNames' | 'spkiSha256'
>;
/** What shows that somebody holds the claim; a manufacturer's devices show their own certificates. */
export type Credential = { certificate: NewCertificate } | { tokenHash: Uint8Array } | { manufacturer: true };
export type NewCertificate = Omit<
  CertificateRow,
  | 'state'
  | 'kind'
  | 'deviceId'
  | 'manufacturerAuthorityId'
  | 'revocationReason'
  | 'issuedAt'
  | 'activatedAt'
  | 'revokedAt'
  | 'listNumber'
>;

/** What GET /claims may be filtered by. */
export const claimFields: Fields = {
  template: text(claims.template),
  kind: word(claims.kind, ['certificate', 'token', 'manufacturer']),
  certificateId: text(claims.certificateId),
  revoked: flag(sql`${claims.revokedAt} is not null`),
  createdAt: instant(claims.createdAt, { id: claims.id }),
};

export async function findClaim(db: Db, id: string): Promise<ClaimRow | undefined> {
  const [row] = await db.select().from(claims).where(eq(claims.id, id));
  return row;
}

/** The youngest first. */
export async function listClaims(db: Db, { filter, after, limit }: Page<[id: string]>): Promise<ClaimRow[]> {
  return db
    .select()
    .from(claims)
    .where(and(filter, after && lt(claims.id, after[0])))
    .orderBy(desc(claims.id))
    .limit(limit);
}

/** The claim with its credential, or undefined when there is no such template. Its bucket of enrolments starts full. */
export async function insertClaim(
  db: Db,
  actor: Actor,
  claim: NewClaim,
  credential: Credential,
): Promise<ClaimRow | undefined> {
  return db.transaction(async (tx) => {
    const template = tx.select({ name: templates.name }).from(templates).where(eq(templates.name, claim.template));
    if ((await template.for('key share')).length === 0) return undefined;
    const [row] = await tx
      .insert(claims)
      .values({ ...claim, ...columnsOf(credential), rateLeft: claim.ratePerMinute })
      .returning();
    const { template: name, usesMax, expiresAt } = claim;
    await insertAudit(tx, actor, {
      action: 'claim.created',
      subject: `claim/${claim.id}`,
      data: { template: name, usesMax, expiresAt: expiresAt.toISOString() },
    });
    if ('certificate' in credential) await keepCertificate(tx, actor, claim.id, credential.certificate);
    return row;
  });
}

function columnsOf(credential: Credential) {
  if ('certificate' in credential) return { kind: 'certificate' as const, certificateId: credential.certificate.id };
  if ('tokenHash' in credential) return { kind: 'token' as const, tokenHash: credential.tokenHash };
  return { kind: 'manufacturer' as const };
}

async function keepCertificate(db: Db, actor: Actor, claimId: string, certificate: NewCertificate): Promise<void> {
  await insertCertificate(db, { ...certificate, kind: 'claim', state: 'ACTIVE', activatedAt: new Date() });
  await insertAudit(db, actor, {
    action: 'certificate.issued',
    subject: `certificate/${certificate.id}`,
    data: { kind: 'claim', claimId, spkiSha256: Buffer.from(certificate.spkiSha256).toString('hex') },
  });
}

/** Revokes the claim and its certificate, which the gateways hear of. False when it is revoked already, or unknown. */
export async function revokeClaim(db: Db, actor: Actor, id: string): Promise<boolean> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(claims)
      .set({ revokedAt: sql`now()` })
      .where(and(eq(claims.id, id), isNull(claims.revokedAt)))
      .returning({ certificateId: claims.certificateId });
    if (!row) return false;
    await insertAudit(tx, actor, { action: 'claim.revoked', subject: `claim/${id}`, data: {} });
    if (row.certificateId === null) return true;
    const reason = 'claimRevoked';
    await revokeCertificate(tx, { id: row.certificateId, reason, from: ['PENDING_ACTIVATION', 'ACTIVE'] });
    const subject = `certificate/${row.certificateId}`;
    await insertAudit(tx, actor, { action: 'certificate.revoked', subject, data: { reason } });
    return true;
  });
}
