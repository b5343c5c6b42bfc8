import { lt, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { hookAnswers, ownershipTokens } from './enrolment-schema.ts';
import { feed, idempotencyKeys } from './schema.ts';

/** The tables that only grow: one partition a month, made this many months ahead. */
const partitioned = ['command_transitions', 'events', 'audit'];
const monthsAhead = 3;

/** Makes the partitions of the months (of jobs and rollouts: the quarters) to come; those that are there already stay. */
export async function makePartitions(db: Db): Promise<void> {
  await db.execute(sql`select make_partitions(t, ${monthsAhead}) from unnest(${sql.param(partitioned)}::text[]) t`);
  await db.execute(sql`
    select make_partitions(t, 1, 3, 'fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0')
    from unnest(array['executions', 'rollout_targets']) t`);
}

/** An idempotency key is kept for 24 h. */
export async function deleteOldIdempotencyKeys(db: Db): Promise<void> {
  await db.delete(idempotencyKeys).where(lt(idempotencyKeys.createdAt, sql`now() - interval '24 hours'`));
}

/** An ownership token is worth nothing after its hour; it is kept a day, so that a late use is told why. */
export async function deleteOldOwnershipTokens(db: Db): Promise<void> {
  await db.delete(ownershipTokens).where(lt(ownershipTokens.expiresAt, sql`now() - interval '24 hours'`));
}

/** A hook's answer serves the enrolment that it was about, which waits for a month at most. */
export async function deleteOldHookAnswers(db: Db): Promise<void> {
  await db.delete(hookAnswers).where(lt(hookAnswers.answeredAt, sql`now() - interval '31 days'`));
}

/** Gateways read the feed with seconds of overlap, and check the rows themselves at every connect. */
export async function deleteOldFeed(db: Db): Promise<void> {
  await db.delete(feed).where(lt(feed.createdAt, sql`now() - interval '7 days'`));
}
