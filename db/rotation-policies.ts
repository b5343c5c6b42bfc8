import { asc, eq, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { rotationPolicies } from './rotation-schema.ts';

export type RotationPolicyRow = typeof rotationPolicies.$inferSelect;
export type RotationPolicy = Omit<RotationPolicyRow, 'name' | 'updatedAt'>;

export async function findRotationPolicy(db: Db, name: string): Promise<RotationPolicyRow | undefined> {
  const [row] = await db.select().from(rotationPolicies).where(eq(rotationPolicies.name, name));
  return row;
}

/** There are few: at most one for each template. */
export async function listRotationPolicies(db: Db): Promise<RotationPolicyRow[]> {
  return db.select().from(rotationPolicies).orderBy(asc(rotationPolicies.name));
}

/** Makes the policy, or puts this in its place. */
export async function putRotationPolicy(
  db: Db,
  actor: Actor,
  { name, ...policy }: RotationPolicy & { name: string },
): Promise<RotationPolicyRow> {
  return db.transaction(async (tx) => {
    const changed = { ...policy, updatedAt: sql`clock_timestamp()` };
    const [row] = await tx
      .insert(rotationPolicies)
      .values({ name, ...changed })
      .onConflictDoUpdate({ target: rotationPolicies.name, set: changed })
      .returning();
    if (!row) throw new Error('a row that was put is there');
    await insertAudit(tx, actor, { action: 'rotation-policy.put', subject: `rotation-policy/${name}`, data: policy });
    return row;
  });
}
