/** Authorities of manufacturers and what proves them; the rest of the ledger is in `schema.ts`. */
import { pgTable, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea } from './columns.ts';

export const manufacturerAuthorities = pgTable('manufacturer_authorities', {
  id: uuid('id').primaryKey(),
  name: text('name').notNull(),
  claimId: uuid('claim_id').notNull(),
  subject: text('subject').notNull(),
  certificatePem: text('certificate_pem').notNull(),
  fingerprint: bytea('fingerprint').notNull(),
  spkiSha256: bytea('spki_sha256').notNull(),
  state: text('state').$type<'ACTIVE' | 'RETIRED'>().notNull(),
  notBefore: at('not_before').notNull(),
  notAfter: at('not_after').notNull(),
  createdBy: text('created_by').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  retiredAt: at('retired_at'),
});

export const manufacturerCodes = pgTable('manufacturer_codes', {
  code: text('code').primaryKey(),
  createdBy: text('created_by').notNull(),
  expiresAt: at('expires_at').notNull(),
});
