import { and, eq, isNull, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import { apiKeys } from './schema.ts';

export type ApiKey = { id: string; name: string; secretHash: Uint8Array };

/** A key that is not revoked. Asked on almost every request. */
export async function findApiKey(db: Db, id: string): Promise<ApiKey | undefined> {
  const [row] = await executePrepared<ApiKey>(
    db,
    sql`select id, name, secret_hash as "secretHash" from api_keys where id = ${id} and revoked_at is null`,
  );
  return row;
}

/** Whether a key was ever made. */
export async function hasApiKey(db: Db): Promise<boolean> {
  const rows = await db.select({ id: apiKeys.id }).from(apiKeys).limit(1);
  return rows.length === 1;
}

export async function insertApiKey(db: Db, actor: Actor, key: ApiKey): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.insert(apiKeys).values(key);
    await insertAudit(tx, actor, { action: 'api-key.created', subject: `api-key/${key.id}`, data: { name: key.name } });
  });
}

/** False when there is no such key, or it is revoked already. Every API process stops taking it within a second. */
export async function revokeApiKey(db: Db, actor: Actor, id: string): Promise<boolean> {
  return db.transaction(async (tx) => {
    const [revoked] = await tx
      .update(apiKeys)
      .set({ revokedAt: sql`now()` })
      .where(and(eq(apiKeys.id, id), isNull(apiKeys.revokedAt)))
      .returning({ name: apiKeys.name });
    if (!revoked) return false;
    await insertAudit(tx, actor, { action: 'api-key.revoked', subject: `api-key/${id}`, data: revoked });
    return true;
  });
}
