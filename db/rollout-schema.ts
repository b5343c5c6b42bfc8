/** Groups, software, releases, jobs and rollouts as queries see them; see `schema.ts`. */
import { sql } from 'drizzle-orm';
import { boolean, integer, jsonb, pgTable, primaryKey } from 'drizzle-orm/pg-core';
import { smallint, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea, counter } from './columns.ts';
import type { RolloutPlan } from './rollout-plan.ts';

export const groups = pgTable('groups', {
  id: uuid('id').primaryKey(),
  name: text('name').notNull(),
  filter: text('filter'),
  description: text('description').notNull().default(''),
  createdAt: at('created_at').notNull().defaultNow(),
  updatedAt: at('updated_at').notNull().defaultNow(),
});

export const groupMembers = pgTable(
  'group_members',
  {
    groupId: uuid('group_id').notNull(),
    deviceId: uuid('device_id').notNull(),
    addedAt: at('added_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.groupId, table.deviceId] })],
);

export const groupReferences = pgTable(
  'group_references',
  { groupId: uuid('group_id').notNull(), namedId: uuid('named_id').notNull() },
  (table) => [primaryKey({ columns: [table.groupId, table.namedId] })],
);

export const deviceSoftware = pgTable(
  'device_software',
  {
    deviceId: uuid('device_id').notNull(),
    product: text('product').notNull(),
    version: text('version').notNull(),
    reportedAt: at('reported_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.deviceId, table.product] })],
);

export const softwareRevisions = pgTable('software_revisions', {
  deviceId: uuid('device_id').primaryKey(),
  revision: counter('revision').notNull().default(1),
});

export const artifacts = pgTable('artifacts', {
  sha256: bytea('sha256').primaryKey(),
  size: counter('size').notNull(),
  createdBy: text('created_by').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
});

export const releaseKeys = pgTable('release_keys', {
  id: text('id').primaryKey(),
  name: text('name').notNull(),
  algorithm: text('algorithm').$type<'ES256' | 'EdDSA'>().notNull(),
  publicKeyPem: text('public_key_pem').notNull(),
  products: text('products').array(),
  createdBy: text('created_by').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  revokedAt: at('revoked_at'),
  revocationReason: text('revocation_reason'),
});

export const releases = pgTable('releases', {
  id: uuid('id').primaryKey(),
  product: text('product').notNull(),
  version: text('version').notNull(),
  securityCounter: counter('security_counter').notNull(),
  manifest: text('manifest').notNull(),
  keyId: text('key_id').notNull(),
  artifact: bytea('artifact').notNull(),
  artifactName: text('artifact_name').notNull(),
  hardware: text('hardware').array().notNull(),
  allowedFrom: text('allowed_from').array(),
  downgrade: boolean('downgrade').notNull().default(false),
  expiresAt: at('expires_at').notNull(),
  createdBy: text('created_by').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  revokedAt: at('revoked_at'),
  revocationReason: text('revocation_reason'),
});

export const jobs = pgTable('jobs', {
  id: uuid('id').primaryKey(),
  /** None of an order that is no rollout's. */
  rolloutId: uuid('rollout_id'),
  document: text('document').notNull(),
  startWithinSeconds: integer('start_within_seconds'),
  endWithinSeconds: integer('end_within_seconds'),
  createdAt: at('created_at').notNull().defaultNow(),
  releaseId: uuid('release_id'),
});

/** AWS's job execution statuses. */
export type ExecutionStatus =
  | 'QUEUED'
  | 'IN_PROGRESS'
  | 'SUCCEEDED'
  | 'FAILED'
  | 'REJECTED'
  | 'TIMED_OUT'
  | 'CANCELED'
  | 'REMOVED';

/** One device's copy of a job. Its primary key is (job, device, attempt). */
export const executions = pgTable(
  'executions',
  {
    jobId: uuid('job_id').notNull(),
    deviceId: uuid('device_id').notNull(),
    attempt: integer('attempt').notNull(),
    status: text('status').$type<ExecutionStatus>().notNull(),
    details: jsonb('details').$type<Record<string, string>>().notNull().default({}),
    version: integer('version').notNull().default(1),
    priority: smallint('priority').notNull().default(0),
    queuedAt: at('queued_at').notNull().defaultNow(),
    startedAt: at('started_at'),
    updatedAt: at('updated_at').notNull().defaultNow(),
    dueAt: at('due_at'),
    stepDueAt: at('step_due_at'),
    endedAt: at('ended_at'),
    lastRequest: bytea('last_request'),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.deviceId, table.attempt] })],
);

export const jobNotices = pgTable('job_notices', {
  deviceId: uuid('device_id').primaryKey(),
  change: uuid('change')
    .notNull()
    .default(sql`uuid_now()`),
  list: boolean('list').notNull(),
  head: boolean('head').notNull(),
  attempts: integer('attempts').notNull().default(0),
  nextAttemptAt: at('next_attempt_at').notNull().defaultNow(),
});

/** hawkBit's words, and two for going back. */
export const rolloutStates = [
  'CREATING',
  'WAITING_FOR_APPROVAL',
  'APPROVAL_DENIED',
  'READY',
  'SCHEDULED',
  'RUNNING',
  'PAUSED',
  'STOPPING',
  'STOPPED',
  'FINISHED',
  'UNDOING',
  'UNDONE',
] as const;
export type RolloutState = (typeof rolloutStates)[number];

export const rollouts = pgTable('rollouts', {
  id: uuid('id').primaryKey(),
  name: text('name').notNull(),
  state: text('state').$type<RolloutState>().notNull(),
  reason: text('reason'),
  forgiven: jsonb('forgiven').$type<Partial<Record<Verdict, number>>>().notNull().default({}),
  wave: integer('wave').notNull().default(0),
  plan: jsonb('plan').$type<RolloutPlan>().notNull(),
  planHash: bytea('plan_hash').notNull(),
  revision: integer('revision').notNull().default(1),
  jobId: uuid('job_id').notNull(),
  releaseId: uuid('release_id'),
  priority: smallint('priority').notNull().default(0),
  targets: integer('targets').notNull().default(0),
  rateLeft: integer('rate_left').notNull().default(0),
  rateAt: at('rate_at').notNull().default(new Date(0)),
  enlistedAt: at('enlisted_at'),
  startsAt: at('starts_at'),
  deadlineAt: at('deadline_at'),
  sentBackAt: at('sent_back_at'),
  createdBy: text('created_by').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  approvedBy: text('approved_by'),
  approvedAt: at('approved_at'),
  startedAt: at('started_at'),
  finishedAt: at('finished_at'),
  updatedAt: at('updated_at').notNull().defaultNow(),
});

export const waves = pgTable(
  'waves',
  {
    rolloutId: uuid('rollout_id').notNull(),
    number: integer('number').notNull(),
    state: text('state').$type<'WAITING' | 'RUNNING' | 'SOAKING' | 'PASSED' | 'FAILED'>().notNull(),
    targets: integer('targets').notNull().default(0),
    verdicts: jsonb('verdicts').$type<Partial<Record<Verdict, number>>>().notNull().default({}),
    undoTargets: integer('undo_targets').notNull().default(0),
    undoVerdicts: jsonb('undo_verdicts').$type<Partial<Record<UndoVerdict, number>>>().notNull().default({}),
    openedAt: at('opened_at'),
    soaksUntil: at('soaks_until'),
    passedBy: text('passed_by'),
    endedAt: at('ended_at'),
  },
  (table) => [primaryKey({ columns: [table.rolloutId, table.number] })],
);

export type Verdict =
  | 'SUCCEEDED'
  | 'FAILED'
  | 'TIMED_OUT'
  | 'REJECTED'
  | 'CANCELED'
  | 'REMOVED'
  | 'SKIPPED'
  | 'REVERTED'
  | 'SILENT';

/** How going back ended: UNDONE is its SUCCEEDED. */
export type UndoVerdict = Exclude<Verdict, 'SUCCEEDED' | 'SKIPPED'> | 'UNDONE' | 'CANNOT_UNDO';

export const rolloutTargets = pgTable(
  'rollout_targets',
  {
    rolloutId: uuid('rollout_id').notNull(),
    deviceId: uuid('device_id').notNull(),
    wave: integer('wave').notNull(),
    place: counter('place').notNull(),
    direction: text('direction').$type<'FORWARD' | 'BACK'>().notNull().default('FORWARD'),
    state: text('state').$type<'SCHEDULED' | 'IN_FLIGHT' | 'RETRYING' | 'DONE'>().notNull(),
    jobId: uuid('job_id'),
    attempt: integer('attempt').notNull().default(0),
    retryAt: at('retry_at'),
    toldAt: at('told_at'),
    verdict: text('verdict').$type<Verdict>(),
    reason: text('reason'),
    judgedAt: at('judged_at'),
    previousVersion: text('previous_version'),
    undoVerdict: text('undo_verdict').$type<UndoVerdict>(),
  },
  (table) => [primaryKey({ columns: [table.rolloutId, table.deviceId] })],
);

export const rolloutDecisions = pgTable('rollout_decisions', {
  id: uuid('id').primaryKey(),
  rolloutId: uuid('rollout_id').notNull(),
  kind: text('kind').notNull(),
  words: text('words').notNull(),
  sample: jsonb('sample').$type<Record<string, unknown>>().notNull(),
  actor: text('actor').notNull(),
  at: at('at').notNull().defaultNow(),
});
