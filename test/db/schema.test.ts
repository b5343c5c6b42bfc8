import { readdirSync } from 'node:fs';
import { getTableColumns, getTableName, is, sql } from 'drizzle-orm';
import { PgTable } from 'drizzle-orm/pg-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { migrate } from '../../db/migrate.ts';
import * as manufacturerSchema from '../../db/manufacturer-schema.ts';
import * as authoritySchema from '../../db/authority-schema.ts';
import * as orderSchema from '../../db/order-schema.ts';
import * as recoverySchema from '../../db/recovery-schema.ts';
import * as registrationSchema from '../../db/registration-schema.ts';
import * as revocationSchema from '../../db/revocation-schema.ts';
import * as enrolmentSchema from '../../db/enrolment-schema.ts';
import * as rotationSchema from '../../db/rotation-schema.ts';
import * as rolloutSchema from '../../db/rollout-schema.ts';
import * as schema from '../../db/schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

const tables = [
  schema,
  authoritySchema,
  enrolmentSchema,
  rolloutSchema,
  orderSchema,
  revocationSchema,
  rotationSchema,
  registrationSchema,
  recoverySchema,
  manufacturerSchema,
]
  .flatMap((part) => Object.values(part))
  .filter((value) => is(value, PgTable));

let database: TestDatabase;
beforeAll(async () => void (database = await makeDatabase()));
afterAll(() => database[Symbol.asyncDispose]());

test.each(tables.map((table) => [getTableName(table), table] as const))(
  '%s is in the schema as queries see it',
  async (name, table) => {
    const columns = await database.db.execute<{ column_name: string; is_nullable: string; data_type: string }>(sql`
    select column_name, is_nullable, data_type from information_schema.columns
    where table_schema = 'public' and table_name = ${name}`);
    const actual = columns.map(({ column_name, is_nullable, data_type }) => [
      column_name,
      is_nullable === 'NO',
      data_type,
    ]);
    const seen = Object.values(getTableColumns(table)).map((column) => [
      column.name,
      column.notNull,
      column
        .getSQLType()
        .replace('timestamp (3)', 'timestamp')
        .replace(/^.*\[\]$/, 'ARRAY'),
    ]);
    expect(new Set(seen.map(String))).toEqual(new Set(actual.map(String)));
  },
);

test('every table of the schema is known to queries', async () => {
  const rows = await database.db.execute<{ relname: string }>(sql`
    select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition`);
  const known = new Set(['migrations', ...tables.map(getTableName)]);
  expect(rows.map(({ relname }) => relname).filter((name) => !known.has(name))).toEqual([]);
});

test('migrating twice, or twice at once, changes nothing', async () => {
  await Promise.all([migrate(database.directUrl), migrate(database.directUrl)]);
  const rows = await database.db.execute<{ count: number }>(sql`select count(*)::int as count from migrations`);
  expect(rows[0]?.count).toBe(readdirSync(new URL('../../db/migrations/', import.meta.url)).length);
});

/** Updates to what changes with every report must not touch an index: they are heap-only then. */
test.each([
  ['orders', ['attempts', 'next_attempt_at']],
  ['command_targets', ['status', 'version', 'result', 'delivered_at', 'updated_at']],
  ['presence', ['connected', 'version', 'changed_at']],
  ['gateways', ['beat_at']],
  ['sessions', ['epoch', 'closed_at', 'subscriptions']],
  ['executions', ['status', 'details', 'version', 'started_at', 'updated_at', 'due_at', 'step_due_at', 'last_request']],
  ['job_notices', ['change', 'list', 'head', 'attempts', 'next_attempt_at']],
  ['software_revisions', ['revision']],
])('no index of %s names a column that changes with a report', async (name, hot) => {
  const rows = await database.db.execute<{ indexdef: string }>(
    sql`select indexdef from pg_indexes where tablename = ${name}`,
  );
  for (const { indexdef } of rows)
    for (const column of hot) expect(indexdef).not.toMatch(new RegExp(`\\b${column}\\b`));
});

test('no foreign key leaves a table that only grows', async () => {
  const rows = await database.db.execute<{ table: string }>(sql`
    select conrelid::regclass::text as table from pg_constraint where contype = 'f'`);
  const growing = ['audit', 'events', 'command_transitions'];
  expect(rows.filter(({ table }) => growing.some((prefix) => table.startsWith(prefix)))).toEqual([]);
});

test('partitions reach three months ahead, and a row of last month finds its place', async () => {
  const rows = await database.db.execute<{ count: number }>(sql`
    select count(*)::int as count from pg_inherits where inhparent = 'events'::regclass`);
  expect(rows[0]?.count).toBe(5);
  await database.db.execute(sql`
    insert into events (id, kind, data) values (uuid_at(date_trunc('month', now()) - interval '1 second'), 'test', '{}')`);
});
