/** Files that register devices ahead as queries see them; see `schema.ts`. */
import { integer, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea, counter } from './columns.ts';

export const registrationStates = ['UPLOADING', 'WAITING', 'RUNNING', 'FINISHED', 'CANCELED'] as const;
export type RegistrationState = (typeof registrationStates)[number];

export const registrations = pgTable('registrations', {
  id: uuid('id').primaryKey(),
  format: text('format').$type<'csv' | 'ndjson'>().notNull(),
  columns: text('columns').array().notNull().default([]),
  state: text('state').$type<RegistrationState>().notNull(),
  size: counter('size'),
  sha256: bytea('sha256'),
  byteOffset: counter('byte_offset').notNull().default(0),
  line: integer('line').notNull().default(1),
  registered: integer('registered').notNull().default(0),
  refused: integer('refused').notNull().default(0),
  createdBy: text('created_by').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  finishedAt: at('finished_at'),
});

export const registrationChunks = pgTable(
  'registration_chunks',
  {
    registrationId: uuid('registration_id').notNull(),
    number: integer('number').notNull(),
    bytes: bytea('bytes').notNull(),
  },
  (table) => [primaryKey({ columns: [table.registrationId, table.number] })],
);

export const registrationFaults = pgTable(
  'registration_faults',
  {
    registrationId: uuid('registration_id').notNull(),
    line: integer('line').notNull(),
    name: text('name'),
    code: text('code').notNull(),
    detail: text('detail').notNull(),
  },
  (table) => [primaryKey({ columns: [table.registrationId, table.line] })],
);

export const registeredDevices = pgTable('registered_devices', {
  deviceId: uuid('device_id').primaryKey(),
  registrationId: uuid('registration_id').notNull(),
  line: integer('line').notNull(),
  spkiSha256: bytea('spki_sha256'),
});
