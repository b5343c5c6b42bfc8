import { and, desc, eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { authorities } from './schema.ts';

export type AuthorityRow = typeof authorities.$inferSelect;

/** The one that issues; of several, the youngest. */
export async function findIssuing(db: Db): Promise<{ id: string } | undefined> {
  const [row] = await db
    .select({ id: authorities.id })
    .from(authorities)
    .where(and(eq(authorities.kind, 'issuing'), eq(authorities.state, 'ACTIVE')))
    .orderBy(desc(authorities.createdAt), desc(authorities.id))
    .limit(1);
  return row;
}

export async function findAuthority(db: Db, id: string): Promise<AuthorityRow | undefined> {
  const [row] = await db.select().from(authorities).where(eq(authorities.id, id));
  return row;
}

/** Whoever changes authorities has the table alone until the commit: of two changes at once, one comes first. */
export async function lockAuthorities(tx: Db): Promise<void> {
  await tx.execute(sql`lock table authorities in share row exclusive mode`);
}

/** False when there is one of this id. */
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

/** How many certificates live under each authority that issues or did. */
export async function countLiving(db: Db): Promise<Map<string, number>> {
  const rows = await db.execute<{ id: string; count: number }>(sql`
    select a.id, (select count(*) from certificates c
      where c.authority_id = a.id and c.state <> 'REVOKED' and c.not_after > now())::int as count
    from authorities a where a.kind = 'issuing'`);
  return new Map(rows.map(({ id, count }) => [id, count]));
}
