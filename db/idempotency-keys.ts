import { and, eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { idempotencyKeys } from './schema.ts';

export type IdempotencyKey = { credential: string; route: string; key: string };
export type KeptAnswer = { status: number; answer: unknown };

/**
 * Takes the key for this transaction: true when it is new, or older than a day. A twin that is at work holds the row, so
 * this waits until the twin commits (then it is taken) or gives up (then it is ours).
 */
export async function takeIdempotencyKey(db: Db, key: IdempotencyKey, requestHash: Uint8Array): Promise<boolean> {
  const taken = await db
    .insert(idempotencyKeys)
    .values({ ...key, requestHash })
    .onConflictDoUpdate({
      target: [idempotencyKeys.credential, idempotencyKeys.route, idempotencyKeys.key],
      set: { requestHash, status: null, answer: null, createdAt: sql`now()` },
      setWhere: sql`${idempotencyKeys.createdAt} < now() - interval '24 hours'`,
    })
    .returning({ key: idempotencyKeys.key });
  return taken.length === 1;
}

export async function findKeptAnswer(db: Db, key: IdempotencyKey) {
  const { requestHash, status, answer } = idempotencyKeys;
  const [row] = await db.select({ requestHash, status, answer }).from(idempotencyKeys).where(isKey(key));
  return row;
}

/** Keeps the answer with the key, in the transaction of the change that it tells of. */
export async function keepAnswer(db: Db, key: IdempotencyKey, kept: KeptAnswer): Promise<void> {
  await db.update(idempotencyKeys).set(kept).where(isKey(key));
}

const isKey = ({ credential, route, key }: IdempotencyKey) =>
  and(eq(idempotencyKeys.credential, credential), eq(idempotencyKeys.route, route), eq(idempotencyKeys.key, key));
