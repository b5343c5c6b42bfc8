import { hash } from 'node:crypto';
import type { Context, MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import type { Database, Db } from '../db/client.ts';
import { findKeptAnswer, keepAnswer, takeIdempotencyKey, type IdempotencyKey } from '../db/idempotency-keys.ts';
import type { Api } from './app.ts';
import { Problem } from './problem.ts';

/** A hint to the gateways that a route may drop: devices with new orders, or something new on the feed, in the trust store or in the outbox. */
export type Hint = { orders: string[] } | { feed: true } | { trust: true } | { outbox: true };

const keyPattern = /^[\x21-\x7e]{1,255}$/;

/**
 * Gives each request the database to work with, and drops its hints on the wire once its change is committed. A POST with
 * an `Idempotency-Key` works in one transaction with the row of its key: effect and answer are kept together or not at
 * all, and a twin waits for the first to end. Only an answer that something was done is kept: after a refusal there is
 * nothing to repeat, and the key is free again.
 */
export function workOnce({ db, wire }: { db: Database; wire: { tell(hint: Hint): void } }): MiddlewareHandler<Api> {
  return async (c, next) => {
    const hints: Hint[] = [];
    c.set('tell', (hint) => void hints.push(hint));
    if (c.req.method !== 'POST' || c.req.header('idempotency-key') === undefined) {
      c.set('db', db);
      await next();
    } else {
      const bytes = Buffer.from(await c.req.arrayBuffer());
      const requestHash = hash('sha256', Buffer.concat([Buffer.from(`${c.req.path}\n`), bytes]), 'buffer');
      await workUnderKey(c, db, requestHash, async (tx) => {
        c.set('db', tx);
        await next();
      });
    }
    if (c.res.ok) for (const hint of hints) wire.tell(hint);
  };
}

/** Thrown to roll the transaction back; the answer stands already. */
class Refused extends Error {}

/**
 * Works in a transaction, with the row of the request's key when it has one. The work leaves its answer in the context, where
 * the first's stands when the request was repeated. What tells one request from another is hashed by the caller.
 */
export async function workUnderKey(
  c: Context<Api>,
  db: Database,
  requestHash: Uint8Array,
  work: (tx: Db) => Promise<void>,
): Promise<void> {
  const key = c.req.header('idempotency-key');
  if (key === undefined) return db.transaction(work);
  if (!keyPattern.test(key)) {
    throw new Problem('malformed-idempotency-key', 'Idempotency-Key is 1 to 255 visible ASCII characters.');
  }
  const taken = { credential: c.var.credential, route: `POST ${routePath(c, -1)}`, key };
  try {
    await db.transaction(async (tx) => {
      if (!(await takeIdempotencyKey(tx, taken, requestHash))) return answerAgain(c, tx, taken, requestHash);
      await work(tx);
      if (!c.res.ok) throw new Refused();
      const answer: unknown = c.var.kept ?? (await c.res.clone().json());
      return keepAnswer(tx, taken, { status: c.res.status, answer });
    });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
}

async function answerAgain(c: Context<Api>, db: Db, key: IdempotencyKey, requestHash: Uint8Array): Promise<void> {
  const kept = await findKeptAnswer(db, key);
  if (!kept || !Buffer.from(requestHash).equals(kept.requestHash)) {
    throw new Problem('idempotency-key-reused', 'This Idempotency-Key belongs to a request with another body.');
  }
  c.res = Response.json(kept.answer, { status: kept.status ?? 200, headers: { 'Idempotent-Replayed': 'true' } });
}
