import { and, asc, eq, gt, inArray, isNull, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { flag, instant, text, word, type Fields, type Page } from './fields.ts';
import { revokeReleases, type RolloutPoke } from './releases.ts';
import { releaseKeys, releases } from './rollout-schema.ts';

export type ReleaseKeyRow = typeof releaseKeys.$inferSelect;
export type NewReleaseKey = Pick<ReleaseKeyRow, 'id' | 'name' | 'algorithm' | 'publicKeyPem' | 'products'>;

/** What GET /release-keys may be filtered by; there are few keys. */
export const releaseKeyFields: Fields = {
  id: text(releaseKeys.id),
  name: text(releaseKeys.name),
  algorithm: word(releaseKeys.algorithm, ['ES256', 'EdDSA']),
  revoked: flag(sql`${releaseKeys.revokedAt} is not null`),
  createdAt: instant(releaseKeys.createdAt),
};

/** Undefined when the key is here already. One that was revoked is here for ever, and never becomes good again. */
export async function insertReleaseKey(db: Db, actor: Actor, key: NewReleaseKey): Promise<ReleaseKeyRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .insert(releaseKeys)
      .values({ ...key, createdBy: actor })
      .onConflictDoNothing()
      .returning();
    if (!row) return undefined;
    const data = { name: row.name, products: row.products };
    await insertAudit(tx, actor, { action: 'release-key.created', subject: `release-key/${row.id}`, data });
    return row;
  });
}

export async function findReleaseKey(db: Db, id: string): Promise<ReleaseKeyRow | undefined> {
  const [row] = await db.select().from(releaseKeys).where(eq(releaseKeys.id, id));
  return row;
}

/** By id. */
export async function listReleaseKeys(db: Db, { filter, after, limit }: Page<[id: string]>): Promise<ReleaseKeyRow[]> {
  return db
    .select()
    .from(releaseKeys)
    .where(and(filter, after && gt(releaseKeys.id, after[0])))
    .orderBy(asc(releaseKeys.id))
    .limit(limit);
}

export type KeyRevocation = {
  id: string;
  reason: string;
  /** A key that is laid aside: what it has signed stays good. Otherwise it goes with the key. */
  keepReleases: boolean;
  poke: RolloutPoke;
};

/** Undefined when it is revoked already, or unknown. Rollouts of a release that goes with it are poked. */
export async function revokeReleaseKey(
  db: Db,
  actor: Actor,
  { id, reason, keepReleases, poke }: KeyRevocation,
): Promise<ReleaseKeyRow | undefined> {
  return db.transaction(async (tx) => {
    // Waits for releases that are being recorded under the key, which hold its row.
    const [row] = await tx
      .update(releaseKeys)
      .set({ revokedAt: sql`now()`, revocationReason: reason })
      .where(and(eq(releaseKeys.id, id), isNull(releaseKeys.revokedAt)))
      .returning();
    if (!row) return undefined;
    const signed = tx
      .select({ id: releases.id })
      .from(releases)
      .where(and(eq(releases.keyId, id), isNull(releases.revokedAt)));
    const revoked = keepReleases
      ? []
      : await revokeReleases(tx, actor, inArray(releases.id, signed), {
          reason: `its key is revoked: ${reason}`,
          poke,
        });
    const data = { reason, releases: revoked.length };
    await insertAudit(tx, actor, { action: 'release-key.revoked', subject: `release-key/${id}`, data });
    return row;
  });
}
