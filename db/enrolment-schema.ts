/** What permits, decides and keeps enrolments; the rest of the ledger is in `schema.ts`. */
import { boolean, doublePrecision, integer, jsonb, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core';
import { at, bytea } from './columns.ts';

/** The keys that a template may ask for. */
export const keyKinds = ['P-256', 'P-384', 'RSA'] as const;
export type KeyKind = (typeof keyKinds)[number];

/**
 * What a template says, as the API checked it (`api/template-definition.ts`). One that was written before a part could be
 * said lacks it: `readDefinition` in `db/templates.ts` says what holds then.
 */
export type TemplateDefinition = {
  namePattern: string;
  parameters: string[];
  attributes: Record<string, string>;
  lifetimeDays: number;
  configuration: Record<string, string>;
  serverMadeKeys: boolean;
  /** Static groups that the device joins. */
  groups?: string[];
  keys?: KeyKind[];
  /** What becomes of an enrolment whose device is enrolled already. */
  existing?: 'reject' | 'approve' | 'replace';
  approval?: boolean;
  approvalWithinHours?: number;
  hook?: { url: string } | null;
};

export const templates = pgTable('templates', {
  name: text('name').primaryKey(),
  definition: jsonb('definition').$type<TemplateDefinition>().notNull(),
  version: integer('version').notNull().default(1),
  createdAt: at('created_at').notNull().defaultNow(),
  updatedAt: at('updated_at').notNull().defaultNow(),
});

export const templateHooks = pgTable('template_hooks', {
  template: text('template').primaryKey(),
  sealedSecret: bytea('sealed_secret').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
});

/** A hook's answer, under the key that it was asked with. */
export const hookAnswers = pgTable('hook_answers', {
  key: text('key').primaryKey(),
  template: text('template').notNull(),
  allow: boolean('allow').notNull(),
  parameters: jsonb('parameters').$type<Record<string, string>>().notNull().default({}),
  answeredAt: at('answered_at').notNull().defaultNow(),
});

export const claims = pgTable('claims', {
  id: uuid('id').primaryKey(),
  kind: text('kind').$type<'certificate' | 'token' | 'manufacturer'>().notNull().default('certificate'),
  template: text('template').notNull(),
  certificateId: text('certificate_id'),
  tokenHash: bytea('token_hash'),
  deviceNames: text('device_names').array(),
  spkiSha256: bytea('spki_sha256'),
  uses: integer('uses').notNull().default(0),
  usesMax: integer('uses_max').notNull(),
  ratePerMinute: integer('rate_per_minute').notNull(),
  rateLeft: doublePrecision('rate_left').notNull(),
  rateAt: at('rate_at').notNull().defaultNow(),
  expiresAt: at('expires_at').notNull(),
  revokedAt: at('revoked_at'),
  createdAt: at('created_at').notNull().defaultNow(),
});

export const claimFailures = pgTable('claim_failures', {
  subject: text('subject').primaryKey(),
  failures: integer('failures').notNull(),
  since: at('since').notNull().defaultNow(),
});

/** What a registered device is told: its name, and the template's configuration. */
export type RegistrationAnswer = { deviceName: string; configuration: Record<string, string> };

/** What a template makes of a device. */
export type Registration = {
  name: string;
  attributes: Record<string, string>;
  configuration: Record<string, string>;
  groups: string[];
};

/** The parts of a distinguished name that templates may use. */
export type SubjectFields = {
  commonName?: string;
  serialNumber?: string;
  organization?: string;
  organizationalUnit?: string;
};

/**
 * What certificates say of a device that enrols. `manufacturer` was proven: the handshake showed a certificate of a
 * registered manufacturer's authority, and the key to it. `request` is the device's own word, worth what a parameter is.
 */
export type Evidence = {
  manufacturer?: SubjectFields;
  request?: SubjectFields;
  /** Every name that the request carries. */
  names?: string[];
};

/** What a device asks to become: the same template and parameters are the same registration. */
export type AskedRegistration = { template: string; parameters: Record<string, string> };

export type EnrolmentState = 'ISSUED' | 'WAITING_FOR_APPROVAL' | 'REGISTERED' | 'ACTIVATED' | 'LAPSED' | 'DENIED';

export const enrolments = pgTable('enrolments', {
  id: uuid('id').primaryKey(),
  key: text('key').notNull(),
  claimId: uuid('claim_id').notNull(),
  template: text('template').notNull(),
  certificateId: text('certificate_id'),
  deviceId: uuid('device_id'),
  state: text('state').$type<EnrolmentState>().notNull(),
  publicKey: bytea('public_key'),
  evidence: jsonb('evidence').$type<Evidence>().notNull().default({}),
  asked: jsonb('asked').$type<AskedRegistration>(),
  adopts: text('adopts'),
  registration: jsonb('registration').$type<Registration>(),
  registrationHash: bytea('registration_hash'),
  answer: jsonb('answer').$type<RegistrationAnswer>(),
  waitsFor: text('waits_for').$type<'approval' | 'device-exists'>(),
  approvedBy: text('approved_by'),
  approvedAt: at('approved_at'),
  supersedes: boolean('supersedes').notNull().default(false),
  closesAt: at('closes_at').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  updatedAt: at('updated_at').notNull().defaultNow(),
});

export const ownershipTokens = pgTable('ownership_tokens', {
  hash: bytea('hash').primaryKey(),
  enrolmentId: uuid('enrolment_id').notNull(),
  certificateId: text('certificate_id').notNull(),
  expiresAt: at('expires_at').notNull(),
});

export const blocks = pgTable(
  'blocks',
  {
    kind: text('kind').$type<'device' | 'key'>().notNull(),
    subject: text('subject').notNull(),
    device: text('device').notNull(),
    reason: text('reason'),
    actor: text('actor').notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.kind, table.subject] })],
);
