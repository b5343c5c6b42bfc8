/** Recovery as queries see it; see `schema.ts`. */
import { pgTable, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea } from './columns.ts';

export const recoveryStates = ['WAITING', 'GRANTED', 'DENIED'] as const;
export type RecoveryState = (typeof recoveryStates)[number];

export const recoveries = pgTable('recoveries', {
  certificateId: text('certificate_id').primaryKey(),
  deviceId: uuid('device_id').notNull(),
  spkiSha256: bytea('spki_sha256').notNull(),
  policy: text('policy').notNull(),
  state: text('state').$type<RecoveryState>().notNull(),
  askedAt: at('asked_at').notNull().defaultNow(),
  decidedBy: text('decided_by'),
  decidedAt: at('decided_at'),
});
