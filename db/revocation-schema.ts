/** Revocation lists, revocations and decommissions as queries see them; see `schema.ts`. */
import { integer, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea, counter } from './columns.ts';

export const revocationLists = pgTable('revocation_lists', {
  authorityId: uuid('authority_id').primaryKey(),
  number: counter('number').notNull(),
  der: bytea('der').notNull(),
  entries: integer('entries').notNull(),
  publishedAt: at('published_at').notNull(),
  nextUpdate: at('next_update').notNull(),
});

export const revocations = pgTable('revocations', {
  certificateId: text('certificate_id').primaryKey(),
  reason: text('reason').notNull(),
  askedBy: text('asked_by').notNull(),
  askedAt: at('asked_at').notNull().defaultNow(),
  feedId: counter('feed_id').notNull(),
  finishedAt: at('finished_at'),
});

export const feedReceipts = pgTable(
  'feed_receipts',
  {
    feedId: counter('feed_id').notNull(),
    gatewayId: uuid('gateway_id').notNull(),
    closed: integer('closed').notNull(),
    at: at('at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.feedId, table.gatewayId] })],
);

export const authorityWarnings = pgTable(
  'authority_warnings',
  {
    authorityId: uuid('authority_id').notNull(),
    months: integer('months').notNull(),
    at: at('at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.authorityId, table.months] })],
);

export const decommissions = pgTable('decommissions', {
  deviceId: uuid('device_id').primaryKey(),
  askedBy: text('asked_by').notNull(),
  askedAt: at('asked_at').notNull().defaultNow(),
  feedId: counter('feed_id').notNull(),
  finishedAt: at('finished_at'),
});
