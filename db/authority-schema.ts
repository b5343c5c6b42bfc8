/** Rollovers of authorities and what they need, as queries see it; see `schema.ts`. */
import { integer, pgTable, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea } from './columns.ts';

export const authorityRequests = pgTable('authority_requests', {
  id: uuid('id').primaryKey(),
  name: text('name').notNull(),
  csrPem: text('csr_pem').notNull(),
  spkiSha256: bytea('spki_sha256').notNull(),
  encryptedKey: bytea('encrypted_key'),
  signer: text('signer').$type<'database' | 'pkcs11'>().notNull(),
  signerKey: text('signer_key'),
  createdAt: at('created_at').notNull().defaultNow(),
});

export const trustBundles = pgTable('trust_bundles', {
  version: integer('version').primaryKey(),
  certificatesPem: text('certificates_pem').notNull(),
  sha256: bytea('sha256').notNull(),
  jobId: uuid('job_id'),
  createdAt: at('created_at').notNull().defaultNow(),
});

export const rollovers = pgTable('rollovers', {
  authorityId: uuid('authority_id').primaryKey(),
  askedBy: text('asked_by').notNull(),
  askedAt: at('asked_at').notNull().defaultNow(),
  acknowledgeBy: at('acknowledge_by').notNull(),
  switchedAt: at('switched_at'),
  finishedAt: at('finished_at'),
});
