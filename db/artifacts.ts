import { and, asc, desc, eq, gt, inArray, lt, lte, or } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { digest, instant, type Fields, type Page } from './fields.ts';
import { artifacts } from './rollout-schema.ts';

export type ArtifactRow = typeof artifacts.$inferSelect;

/** What GET /artifacts may be filtered by. */
export const artifactFields: Fields = {
  sha256: digest(artifacts.sha256),
  createdAt: instant(artifacts.createdAt),
};

/** By its digest in hex. */
export async function findArtifact(db: Db, sha256: string): Promise<ArtifactRow | undefined> {
  const [row] = await db
    .select()
    .from(artifacts)
    .where(eq(artifacts.sha256, bytesOf(sha256)));
  return row;
}

/** Those of the digests under which there is no artifact. */
export async function listUnknownArtifacts(db: Db, digests: string[]): Promise<string[]> {
  if (digests.length === 0) return [];
  const rows = await db
    .select({ sha256: artifacts.sha256 })
    .from(artifacts)
    .where(inArray(artifacts.sha256, digests.map(bytesOf)));
  const known = new Set(rows.map(({ sha256 }) => Buffer.from(sha256).toString('hex')));
  return digests.filter((sha256) => !known.has(sha256));
}

/** The youngest first. */
export async function listArtifacts(
  db: Db,
  { filter, after, limit }: Page<[createdAt: string, sha256: string]>,
): Promise<ArtifactRow[]> {
  const { createdAt, sha256 } = artifacts;
  const key = after && ([new Date(after[0]), bytesOf(after[1])] as const);
  return db
    .select()
    .from(artifacts)
    .where(
      // Two conditions, because the index goes down by one column and up by the other.
      and(filter, key && and(lte(createdAt, key[0]), or(lt(createdAt, key[0]), gt(sha256, key[1])))),
    )
    .orderBy(desc(createdAt), asc(sha256))
    .limit(limit);
}

/** Notes what the store has. Noting it again changes nothing; `isNew` says whether it was noted before. */
export async function insertArtifact(
  db: Db,
  actor: Actor,
  { sha256, size }: { sha256: string; size: number },
): Promise<{ row: ArtifactRow; isNew: boolean }> {
  return db.transaction(async (tx) => {
    const [inserted] = await tx
      .insert(artifacts)
      .values({ sha256: bytesOf(sha256), size, createdBy: actor })
      .onConflictDoNothing()
      .returning();
    if (inserted) {
      await insertAudit(tx, actor, { action: 'artifact.stored', subject: `artifact/${sha256}`, data: { size } });
      return { row: inserted, isNew: true };
    }
    const row = await findArtifact(tx, sha256);
    if (!row) throw new Error('an artifact is never deleted');
    return { row, isNew: false };
  });
}

const bytesOf = (sha256: string) => Buffer.from(sha256, 'hex');
