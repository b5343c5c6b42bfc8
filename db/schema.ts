/**
 * The fleet ledger as queries see it: devices and what is said with them. Jobs and rollouts are in `rollout-schema.ts`, enrolment in
 * `enrolment-schema.ts`. Its constraints, indexes (each with the query that it serves) and
 * storage settings stand in `migrations/`; a test holds the two against each other.
 */
import { boolean, integer, jsonb, pgTable, primaryKey } from 'drizzle-orm/pg-core';
import { smallint, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea, counter, identity, xid8 } from './columns.ts';

export const authorities = pgTable('authorities', {
  id: uuid('id').primaryKey(),
  kind: text('kind').$type<'root' | 'issuing'>().notNull(),
  name: text('name').notNull(),
  certificatePem: text('certificate_pem').notNull(),
  spkiSha256: bytea('spki_sha256').notNull(),
  encryptedKey: bytea('encrypted_key'),
  signer: text('signer').$type<'database' | 'pkcs11'>().notNull().default('database'),
  signerKey: text('signer_key'),
  parentId: uuid('parent_id'),
  state: text('state').$type<'STANDBY' | 'ACTIVE' | 'RETIRED' | 'REVOKED'>().notNull(),
  notBefore: at('not_before').notNull(),
  notAfter: at('not_after').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  endedAt: at('ended_at'),
  revocationReason: text('revocation_reason'),
});

export const devices = pgTable('devices', {
  id: uuid('id').primaryKey(),
  name: text('name').notNull(),
  template: text('template'),
  state: text('state').$type<'REGISTERED' | 'ACTIVE' | 'BLOCKED'>().notNull(),
  attributes: jsonb('attributes').$type<Record<string, string>>().notNull().default({}),
  createdAt: at('created_at').notNull().defaultNow(),
  updatedAt: at('updated_at').notNull().defaultNow(),
  decommissionedAt: at('decommissioned_at'),
});

export const certificates = pgTable('certificates', {
  id: text('id').primaryKey(),
  kind: text('kind').$type<'device' | 'claim' | 'service'>().notNull(),
  deviceId: uuid('device_id'),
  subject: text('subject').notNull(),
  /** Ours that has issued it, or else the manufacturer's under which it was adopted. */
  authorityId: uuid('authority_id'),
  manufacturerAuthorityId: uuid('manufacturer_authority_id'),
  serial: text('serial').notNull(),
  fingerprint: bytea('fingerprint').notNull(),
  spkiSha256: bytea('spki_sha256').notNull(),
  pem: text('pem').notNull(),
  state: text('state').$type<'PENDING_ACTIVATION' | 'ACTIVE' | 'REVOKED'>().notNull(),
  revocationReason: text('revocation_reason'),
  notBefore: at('not_before').notNull(),
  notAfter: at('not_after').notNull(),
  issuedAt: at('issued_at').notNull().defaultNow(),
  activatedAt: at('activated_at'),
  revokedAt: at('revoked_at'),
  listNumber: counter('list_number'),
});

export const gateways = pgTable('gateways', {
  id: uuid('id').primaryKey(),
  address: text('address').notNull(),
  startedAt: at('started_at').notNull().defaultNow(),
  beatAt: at('beat_at').notNull().defaultNow(),
  stoppedAt: at('stopped_at'),
});

/** An MQTT session. Its primary key is (identity, client id); every write after its opening says `where epoch = mine`. */
export const sessions = pgTable(
  'sessions',
  {
    identity: text('identity').notNull(),
    clientId: text('client_id').notNull(),
    epoch: counter('epoch').notNull().default(1),
    gatewayId: uuid('gateway_id').notNull(),
    certificateId: text('certificate_id').notNull(),
    deviceId: uuid('device_id'),
    address: text('address'),
    protocol: smallint('protocol').notNull(),
    subscriptions: jsonb('subscriptions').$type<Record<string, 0 | 1>>().notNull().default({}),
    expirySeconds: counter('expiry_seconds'),
    connectedAt: at('connected_at').notNull(),
    closedAt: at('closed_at'),
    reason: text('reason'),
  },
  (table) => [primaryKey({ columns: [table.identity, table.clientId] })],
);

export const presence = pgTable('presence', {
  deviceId: uuid('device_id').primaryKey(),
  connected: boolean('connected').notNull(),
  clientId: text('client_id').notNull(),
  version: counter('version').notNull(),
  certificateId: text('certificate_id').notNull(),
  address: text('address'),
  reason: text('reason'),
  changedAt: at('changed_at').notNull(),
});

export const presenceChecks = pgTable('presence_checks', {
  id: identity(),
  deviceId: uuid('device_id').notNull(),
  clientId: text('client_id').notNull(),
  epoch: counter('epoch').notNull(),
  reason: text('reason').notNull(),
  dueAt: at('due_at').notNull(),
});

export const commands = pgTable('commands', {
  id: uuid('id').primaryKey(),
  payload: bytea('payload').notNull(),
  format: text('format').$type<'json' | 'cbor' | 'other'>().notNull(),
  contentType: text('content_type').notNull(),
  timeoutSeconds: integer('timeout_seconds').notNull(),
  deadlineAt: at('deadline_at').notNull(),
  targets: integer('targets').notNull(),
  createdBy: text('created_by').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  canceledAt: at('canceled_at'),
  finishedAt: at('finished_at'),
});

/** AWS's command execution statuses, and ours for one that was taken back. */
export type CommandStatus = 'CREATED' | 'IN_PROGRESS' | 'SUCCEEDED' | 'FAILED' | 'REJECTED' | 'TIMED_OUT' | 'CANCELED';

/** One device's copy of a command: AWS's command execution. */
export const commandTargets = pgTable('command_targets', {
  executionId: uuid('execution_id').primaryKey(),
  commandId: uuid('command_id').notNull(),
  deviceId: uuid('device_id').notNull(),
  status: text('status').$type<CommandStatus>().notNull(),
  statusBy: text('status_by').$type<'service' | 'device'>().notNull().default('service'),
  version: integer('version').notNull().default(1),
  reasonCode: text('reason_code'),
  reasonDescription: text('reason_description'),
  result: jsonb('result').$type<Record<string, unknown>>(),
  deliveredAt: at('delivered_at'),
  updatedAt: at('updated_at').notNull().defaultNow(),
});

export const commandTransitions = pgTable('command_transitions', {
  id: uuid('id').primaryKey(),
  executionId: uuid('execution_id').notNull(),
  status: text('status').$type<CommandStatus>().notNull(),
  statusBy: text('status_by').$type<'service' | 'device'>().notNull(),
  reasonCode: text('reason_code'),
  late: boolean('late').notNull().default(false),
  at: at('at').notNull().defaultNow(),
});

export const orders = pgTable(
  'orders',
  {
    deviceId: uuid('device_id').notNull(),
    id: uuid('id').notNull(),
    kind: text('kind').$type<'command'>().notNull(),
    attempts: integer('attempts').notNull().default(0),
    nextAttemptAt: at('next_attempt_at').notNull().defaultNow(),
    expiresAt: at('expires_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.deviceId, table.id] })],
);

export const feed = pgTable('feed', {
  id: identity(),
  kind: text('kind').$type<'certificate' | 'device' | 'claim'>().notNull(),
  subject: text('subject').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
});

export const outbox = pgTable('outbox', {
  id: identity(),
  shard: smallint('shard').notNull(),
  kind: text('kind').$type<'start' | 'signal'>().notNull(),
  workflowId: text('workflow_id').notNull(),
  name: text('name').notNull(),
  argument: jsonb('argument').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
});

export const relayLeases = pgTable('relay_leases', {
  shard: smallint('shard').primaryKey(),
  gatewayId: uuid('gateway_id'),
  leasedUntil: at('leased_until').notNull(),
});

export const temporalStore = pgTable('temporal_store', {
  onlyOne: boolean('only_one').primaryKey().default(true),
  namespaceId: text('namespace_id').notNull(),
});

export const events = pgTable('events', {
  id: uuid('id').primaryKey(),
  xid: xid8('xid').notNull(),
  kind: text('kind').notNull(),
  deviceId: uuid('device_id'),
  data: jsonb('data').$type<Record<string, unknown>>().notNull(),
  at: at('at').notNull().defaultNow(),
  subject: text('subject'),
});

export const audit = pgTable('audit', {
  id: uuid('id').primaryKey(),
  actor: text('actor').notNull(),
  action: text('action').notNull(),
  subject: text('subject').notNull(),
  data: jsonb('data').$type<Record<string, unknown>>().notNull().default({}),
  at: at('at').notNull().defaultNow(),
});

export const quarantine = pgTable('quarantine', {
  id: uuid('id').primaryKey(),
  deviceId: uuid('device_id'),
  topic: text('topic').notNull(),
  payload: bytea('payload').notNull(),
  error: text('error').notNull(),
  at: at('at').notNull().defaultNow(),
});

export const apiKeys = pgTable('api_keys', {
  id: uuid('id').primaryKey(),
  name: text('name').notNull(),
  secretHash: bytea('secret_hash').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  revokedAt: at('revoked_at'),
});

export const idempotencyKeys = pgTable(
  'idempotency_keys',
  {
    credential: uuid('credential').notNull(),
    route: text('route').notNull(),
    key: text('key').notNull(),
    requestHash: bytea('request_hash').notNull(),
    status: smallint('status'),
    answer: jsonb('answer'),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.credential, table.route, table.key] })],
);
