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
    .limit(100_000);
}

/** Says that this gateway has looked at these entries, and closed so many sessions of each. The first word stands. */
export async function confirmFeed(db: Db, gatewayId: string, entries: { id: number; closed: number }[]): Promise<void> {
  await db.execute(sql`
    insert into feed_receipts (feed_id, gateway_id, closed, at)
    select f.id, ${gatewayId}::uuid, e.closed, clock_timestamp()
    from unnest(${sql.param(entries.map(({ id }) => id))}::bigint[], ${sql.param(entries.map(({ closed }) => closed))}::int[])
      as e (id, closed)
    join feed f on f.id = e.id
    on conflict do nothing`);
}

/** Whose sessions an entry of the feed closes. */
export type FeedProbe = { feedId: number } & ({ certificateId: string } | { deviceId: string });

export type FeedStanding = {
  /** Gateways that live and have not looked at the entry. */
  unheard: string[];
  /** Sessions of its subject that are open by their rows. */
  openSessions: number;
};

/** How far the entry has come. A gateway lives until it has stopped in good order, or another has found it dead. */
export async function probeFeed(db: Db, { feedId, ...subject }: FeedProbe): Promise<FeedStanding> {
  const isIts =
    'certificateId' in subject
      ? sql`s.certificate_id = ${subject.certificateId}`
      : sql`s.device_id = ${subject.deviceId}::uuid`;
  const [row] = await db.execute<FeedStanding>(sql`
    select
      (select coalesce(array_agg(g.id::text order by g.id), '{}') from gateways g
        where g.stopped_at is null
          and not exists (select from feed_receipts r where r.feed_id = ${feedId}::bigint and r.gateway_id = g.id)) as unheard,
      (select count(*)::int from sessions s where ${isIts} and s.closed_at is null) as "openSessions"`);
  if (!row) throw new Error('the database did not answer');
  return row;
}
