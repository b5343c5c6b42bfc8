import { and, desc, eq, isNull, lt, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { insertCertificate, revokeCertificate, type CertificateRow } from './certificates.ts';
import type { Db } from './client.ts';
import { flag, instant, text, type Fields, type Page } from './fields.ts';
import { claims, templates } from './schema.ts';

export type ClaimRow = typeof claims.$inferSelect;
export type NewClaim = Pick<ClaimRow, 'id' | 'template' | 'usesMax' | 'ratePerMinute' | 'expiresAt'>;
export type NewCertificate = Omit<
  CertificateRow,
  'state' | 'kind' | 'deviceId' | 'revocationReason' | 'issuedAt' | 'activatedAt' | 'revokedAt' | 'listNumber'
>;

/** What GET /claims may be filtered by. */
export const claimFields: Fields = {
  template: text(claims.template),
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

/** The claim with its certificate, or undefined when there is no such template. Its bucket of enrolments starts full. */
export async function insertClaim(
  db: Db,
  actor: Actor,
  claim: NewClaim,
  certificate: NewCertificate,
): Promise<ClaimRow | undefined> {
  return db.transaction(async (tx) => {
    const template = tx.select({ name: templates.name }).from(templates).where(eq(templates.name, claim.template));
    if ((await template.for('key share')).length === 0) return undefined;
    await insertCertificate(tx, { ...certificate, kind: 'claim', state: 'ACTIVE', activatedAt: new Date() });
    const [row] = await tx
      .insert(claims)
      .values({ ...claim, certificateId: certificate.id, rateLeft: claim.ratePerMinute })
      .returning();
    await insertAudit(
      tx,
      actor,
      {
        action: 'claim.created',
        subject: `claim/${claim.id}`,
        data: { template: claim.template, usesMax: claim.usesMax, expiresAt: claim.expiresAt.toISOString() },
      },
      {
        action: 'certificate.issued',
        subject: `certificate/${certificate.id}`,
        data: { kind: 'claim', claimId: claim.id, spkiSha256: Buffer.from(certificate.spkiSha256).toString('hex') },
      },
    );
    return row;
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
    const reason = 'claimRevoked';
    await revokeCertificate(tx, { id: row.certificateId, reason, from: ['PENDING_ACTIVATION', 'ACTIVE'] });
    await insertAudit(
      tx,
      actor,
      { action: 'claim.revoked', subject: `claim/${id}`, data: {} },
      { action: 'certificate.revoked', subject: `certificate/${row.certificateId}`, data: { reason } },
    );
    return true;
  });
}
