import { and, desc, eq, isNull, lt, max, sql, type SQL } from 'drizzle-orm';
import { insertAudit, type Actor, type AuditEntry } from './audit.ts';
import type { Db } from './client.ts';
import { digest, flag, instant, text, type Fields, type Page } from './fields.ts';
import { artifacts, releaseKeys, releases } from './rollout-schema.ts';

export type ReleaseRow = typeof releases.$inferSelect;

/** What GET /releases may be filtered by. */
export const releaseFields: Fields = {
  product: text(releases.product),
  version: text(releases.version),
  artifact: digest(releases.artifact),
  keyId: text(releases.keyId),
  revoked: flag(sql`${releases.revokedAt} is not null`),
  expired: flag(sql`${releases.expiresAt} <= now()`),
  createdAt: instant(releases.createdAt, { id: releases.id }),
};

export type NewRelease = Omit<
  typeof releases.$inferInsert,
  'createdBy' | 'createdAt' | 'revokedAt' | 'revocationReason'
> & { size: number };

export type ReleaseRefusal =
  | { refused: 'key' }
  | { refused: 'artifact-unknown' }
  | { refused: 'artifact-size'; size: number }
  /** Below one that devices may have, and not signed as a way back. */
  | { refused: 'counter'; counter: number }
  | { refused: 'version' };

/**
 * Records what was signed, once its signature is checked: its key is not revoked, the artifact is here and has the size, the
 * counter is not below any of the product's releases (revoked ones may run somewhere) unless it is a downgrade, and the
 * version is not taken.
 */
export async function insertRelease(
  db: Db,
  actor: Actor,
  { size, ...release }: NewRelease,
): Promise<FoundRelease | ReleaseRefusal> {
  return db.transaction(async (tx) => {
    const goodKey = and(eq(releaseKeys.id, release.keyId), isNull(releaseKeys.revokedAt));
    const [key] = await tx.select({ id: releaseKeys.id }).from(releaseKeys).where(goodKey).for('share');
    if (!key) return { refused: 'key' };
    const [artifact] = await tx
      .select({ size: artifacts.size })
      .from(artifacts)
      .where(eq(artifacts.sha256, release.artifact));
    if (!artifact) return { refused: 'artifact-unknown' };
    if (artifact.size !== size) return { refused: 'artifact-size', size: artifact.size };
    const counter = await findCounter(tx, release.product);
    if (counter !== null && release.securityCounter < counter && !release.downgrade)
      return { refused: 'counter', counter };
    const [row] = await tx
      .insert(releases)
      .values({ ...release, createdBy: actor })
      .onConflictDoNothing()
      .returning();
    if (!row) return { refused: 'version' };
    const data = { product: row.product, version: row.version, keyId: row.keyId };
    await insertAudit(tx, actor, { action: 'release.created', subject: `release/${row.id}`, data });
    return { release: row, size };
  });
}

/** The highest counter of the product's releases; null when it has none. */
async function findCounter(db: Db, product: string): Promise<number | null> {
  const [row] = await db
    .select({ counter: max(releases.securityCounter) })
    .from(releases)
    .where(eq(releases.product, product));
  return row?.counter ?? null;
}

export type FoundRelease = { release: ReleaseRow; size: number };

export async function findRelease(db: Db, id: string): Promise<FoundRelease | undefined> {
  const [row] = await selectReleases(db).where(eq(releases.id, id));
  return row;
}

/** The youngest first. */
export async function listReleases(db: Db, { filter, after, limit }: Page<[id: string]>): Promise<FoundRelease[]> {
  return selectReleases(db)
    .where(and(filter, after && lt(releases.id, after[0])))
    .orderBy(desc(releases.id))
    .limit(limit);
}

const selectReleases = (db: Db) =>
  db
    .select({ release: releases, size: artifacts.size })
    .from(releases)
    .innerJoin(artifacts, eq(artifacts.sha256, releases.artifact));

/** How a rollout is told to look: the workflow whose id is this prefix and the rollout's. */
export type RolloutPoke = { workflowIdPrefix: string; signal: string };

/** Undefined when it is revoked already, or unknown. */
export async function revokeRelease(
  db: Db,
  actor: Actor,
  id: string,
  revocation: { reason: string; poke: RolloutPoke },
): Promise<ReleaseRow | undefined> {
  return db.transaction(async (tx) => (await revokeReleases(tx, actor, eq(releases.id, id), revocation))[0]);
}

/**
 * Revokes those that are not revoked, and pokes every rollout that is not finished and brings them, or takes devices back to
 * them. Run it in a transaction.
 */
export async function revokeReleases(
  db: Db,
  actor: Actor,
  which: SQL,
  { reason, poke }: { reason: string; poke: RolloutPoke },
): Promise<ReleaseRow[]> {
  const revoked = await db
    .update(releases)
    .set({ revokedAt: sql`now()`, revocationReason: reason })
    .where(and(which, isNull(releases.revokedAt)))
    .returning();
  if (revoked.length === 0) return [];
  const ids = sql.param(revoked.map(({ id }) => id));
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'signal', workflow_id, ${poke.signal}::text, '{}'
    from (
      select ${poke.workflowIdPrefix}::text || id as workflow_id from rollouts
      where finished_at is null
        and (release_id = any (${ids}::uuid[]) or id in (select rollout_id from jobs where release_id = any (${ids}::uuid[])))
      order by id
    ) open`);
  const entries = revoked.map(({ id }): AuditEntry => ({
    action: 'release.revoked',
    subject: `release/${id}`,
    data: { reason },
  }));
  await insertAudit(db, actor, ...entries);
  return revoked;
}
