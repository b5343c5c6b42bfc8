/** Rotation as queries see it; see `schema.ts`. */
import { boolean, integer, pgTable, text, uuid } from 'drizzle-orm/pg-core';
import { at } from './columns.ts';

export const rotationPolicies = pgTable('rotation_policies', {
  name: text('name').primaryKey(),
  paused: boolean('paused').notNull().default(false),
  earlierDays: integer('earlier_days').notNull().default(0),
  everyMinutes: integer('every_minutes').notNull().default(60),
  perMinute: integer('per_minute').notNull().default(60),
  atOnce: integer('at_once').notNull().default(500),
  proveWithinHours: integer('prove_within_hours').notNull().default(168),
  graceHours: integer('grace_hours').notNull().default(24),
  anyTime: boolean('any_time').notNull().default(false),
  recoverWithinDays: integer('recover_within_days').notNull().default(0),
  recoveryApproval: boolean('recovery_approval').notNull().default(true),
  updatedAt: at('updated_at').notNull().defaultNow(),
});

/** How a rotation ends: all but the first of them leave the old certificate as it was. */
export type RotationOutcome = 'ROTATED' | 'REFUSED' | 'UNANSWERED' | 'NEVER_USED' | 'ENDED';
export type RotationState = 'BEGUN' | 'ORDERED' | 'ISSUED' | 'PROVEN' | RotationOutcome;

/** Why: its time has come, its authority has ended, an operator wants it, or the device asked by itself, in time or after the end. */
export const rotationReasons = ['due', 'authority', 'requested', 'renewal', 'recovery'] as const;
export type RotationReason = (typeof rotationReasons)[number];

export const rotations = pgTable('rotations', {
  id: uuid('id').primaryKey(),
  deviceId: uuid('device_id').notNull(),
  certificateId: text('certificate_id').notNull(),
  newCertificateId: text('new_certificate_id'),
  policy: text('policy').notNull(),
  reason: text('reason').$type<RotationReason>().notNull(),
  askedBy: text('asked_by').notNull(),
  state: text('state').$type<RotationState>().notNull(),
  attempt: integer('attempt').notNull(),
  begunAt: at('begun_at').notNull().defaultNow(),
  issuedAt: at('issued_at'),
  provenAt: at('proven_at'),
  finishedAt: at('finished_at'),
  againAt: at('again_at'),
});

export const certificateWarnings = pgTable('certificate_warnings', {
  certificateId: text('certificate_id').primaryKey(),
  at: at('at').notNull().defaultNow(),
});
