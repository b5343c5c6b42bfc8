import { and, desc, eq } from 'drizzle-orm';
import type { Db } from './client.ts';
import { authorities } from './schema.ts';

export type AuthorityRow = typeof authorities.$inferSelect;

/** Of several, the youngest. */
export async function findActiveAuthority(db: Db, kind: 'root' | 'issuing'): Promise<AuthorityRow | undefined> {
  const [row] = await db
    .select()
    .from(authorities)
    .where(and(eq(authorities.kind, kind), eq(authorities.state, 'ACTIVE')))
    .orderBy(desc(authorities.createdAt), desc(authorities.id))
    .limit(1);
  return row;
}

/** False when it is a root and there is one in service: of two first starts at once, one makes it. */
export async function insertAuthority(db: Db, row: typeof authorities.$inferInsert): Promise<boolean> {
  const inserted = await db.insert(authorities).values(row).onConflictDoNothing().returning({ id: authorities.id });
  return inserted.length === 1;
}

/** All whose certificates may still be in use, retired ones too. */
export async function listAuthorities(db: Db): Promise<AuthorityRow[]> {
  return db.select().from(authorities);
}

/** The authorities under this one that are revoked, of which its list tells. */
export async function listRevokedAuthorities(
  db: Db,
  parentId: string,
): Promise<{ certificatePem: string; revokedAt: Date; reason: string }[]> {
  const rows = await db
    .select()
    .from(authorities)
    .where(and(eq(authorities.parentId, parentId), eq(authorities.state, 'REVOKED')));
  return rows.map(({ certificatePem, endedAt, revocationReason }) => {
    return { certificatePem, revokedAt: endedAt ?? new Date(0), reason: revocationReason ?? 'cessationOfOperation' };
  });
}

export async function isActiveAuthority(db: Db, id: string): Promise<boolean> {
  const [row] = await db.select({ state: authorities.state }).from(authorities).where(eq(authorities.id, id));
  return row?.state === 'ACTIVE';
}
