import { and, eq, gt, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { enrolments, ownershipTokens } from './enrolment-schema.ts';

export async function insertOwnershipToken(db: Db, row: typeof ownershipTokens.$inferInsert): Promise<void> {
  await db.insert(ownershipTokens).values(row);
}

/**
 * The enrolment that this token owns, when it was given to a connection with this certificate and its time is not over.
 * Only the token's SHA-256 is known here.
 */
export async function findOwnedEnrolment(db: Db, token: { hash: Uint8Array; certificateId: string }) {
  const [row] = await db
    .select({ enrolment: enrolments })
    .from(ownershipTokens)
    .innerJoin(enrolments, eq(enrolments.id, ownershipTokens.enrolmentId))
    .where(
      and(
        eq(ownershipTokens.hash, token.hash),
        eq(ownershipTokens.certificateId, token.certificateId),
        gt(ownershipTokens.expiresAt, sql`now()`),
      ),
    );
  return row?.enrolment;
}
