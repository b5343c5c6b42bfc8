import { desc, gt, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { feed } from './schema.ts';

/**
 * Revocations, blocks and their like of the last `overlapMs`, by the database's clock. A reader that asks every second
 * sees each many times, and so also those whose transaction took long.
 */
export async function listRecentFeed(db: Db, overlapMs: number): Promise<(typeof feed.$inferSelect)[]> {
  return db
    .select()
    .from(feed)
    .where(gt(feed.createdAt, sql`now() - make_interval(secs => ${overlapMs / 1000}::double precision)`))
    .orderBy(desc(feed.id))
    .limit(10_000);
}
