import { and, asc, eq } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { authorityRequests } from './authority-schema.ts';
import { lockAuthorities, type AuthorityRow } from './authorities.ts';
import type { Db } from './client.ts';
import { authorities } from './schema.ts';
import { publishTrustBundle } from './trust-bundles.ts';

export type AuthorityRequestRow = typeof authorityRequests.$inferSelect;
export type NewRoot = Pick<AuthorityRow, 'id' | 'certificatePem' | 'spkiSha256' | 'notBefore' | 'notAfter' | 'name'>;
export type Certified = NewRoot & { parentId: string };

/** Keys that wait at a time: each is made by whoever asks. */
const requestsMax = 10;

/** By id, the oldest first. */
export async function listAuthorityRequests(db: Db): Promise<AuthorityRequestRow[]> {
  return db.select().from(authorityRequests).orderBy(asc(authorityRequests.id));
}

export async function findAuthorityRequest(db: Db, id: string): Promise<AuthorityRequestRow | undefined> {
  const [row] = await db.select().from(authorityRequests).where(eq(authorityRequests.id, id));
  return row;
}

/** False when too many wait already. */
export async function insertAuthorityRequest(
  db: Db,
  actor: Actor,
  row: Omit<AuthorityRequestRow, 'createdAt'>,
): Promise<boolean> {
  return db.transaction(async (tx) => {
    await lockAuthorities(tx);
    if ((await tx.$count(authorityRequests)) >= requestsMax) return false;
    await tx.insert(authorityRequests).values(row);
    const { id, name, signer } = row;
    await insertAudit(tx, actor, { action: 'authority.requested', subject: `authority/${id}`, data: { name, signer } });
    return true;
  });
}

/** Gives up a key that no root has certified yet. */
export async function deleteAuthorityRequest(db: Db, actor: Actor, id: string): Promise<boolean> {
  return db.transaction(async (tx) => {
    const deleted = await tx.delete(authorityRequests).where(eq(authorityRequests.id, id)).returning();
    if (deleted.length === 0) return false;
    await insertAudit(tx, actor, { action: 'authority.withdrawn', subject: `authority/${id}`, data: {} });
    return true;
  });
}

/** Makes an authority of the request, which stands by; undefined when the request is gone meanwhile, or its root is retired. */
export async function certifyRequest(db: Db, actor: Actor, certified: Certified): Promise<AuthorityRow | undefined> {
  const { id, parentId, notAfter } = certified;
  return db.transaction(async (tx) => {
    await lockAuthorities(tx);
    if ((await tx.$count(authorities, and(eq(authorities.id, parentId), eq(authorities.state, 'ACTIVE')))) === 0)
      return undefined;
    const [request] = await tx.delete(authorityRequests).where(eq(authorityRequests.id, id)).returning();
    if (!request) return undefined;
    const { encryptedKey, signer, signerKey } = request;
    const [row] = await tx
      .insert(authorities)
      .values({ ...certified, kind: 'issuing', state: 'STANDBY', encryptedKey, signer, signerKey })
      .returning();
    const data = { parentId, notAfter: notAfter.toISOString() };
    await insertAudit(tx, actor, { action: 'authority.certified', subject: `authority/${id}`, data });
    return row;
  });
}

/** Trusts another root beside those that are, with a new version of the bundle; undefined when it is or was known. */
export async function insertRoot(db: Db, actor: Actor, root: NewRoot): Promise<AuthorityRow | undefined> {
  return db.transaction(async (tx) => {
    await lockAuthorities(tx);
    const same = await tx.$count(authorities, eq(authorities.spkiSha256, root.spkiSha256));
    if (same > 0) return undefined;
    const [row] = await tx
      .insert(authorities)
      .values({ ...root, kind: 'root', state: 'ACTIVE' })
      .returning();
    const data = { kind: 'root' as const, notAfter: root.notAfter.toISOString() };
    await insertAudit(tx, actor, { action: 'authority.created', subject: `authority/${root.id}`, data });
    await publishTrustBundle(tx, actor);
    return row;
  });
}
