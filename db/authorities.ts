import { and, eq } from 'drizzle-orm';
import type { Db } from './client.ts';
import { authorities } from './schema.ts';

export type AuthorityRow = typeof authorities.$inferSelect;

export async function findActiveAuthority(db: Db, kind: 'root' | 'issuing'): Promise<AuthorityRow | undefined> {
  const [row] = await db
    .select()
    .from(authorities)
    .where(and(eq(authorities.kind, kind), eq(authorities.state, 'ACTIVE')));
  return row;
}

/** False when an authority of this kind is active already: of two first starts at once, one makes it. */
export async function insertAuthority(db: Db, row: typeof authorities.$inferInsert): Promise<boolean> {
  const inserted = await db.insert(authorities).values(row).onConflictDoNothing().returning({ id: authorities.id });
  return inserted.length === 1;
}

/** All whose certificates may still be in use, retired ones too. */
export async function listAuthorities(db: Db): Promise<AuthorityRow[]> {
  return db.select().from(authorities);
}
