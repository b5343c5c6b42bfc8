import { readdir, readFile } from 'node:fs/promises';
import type Postgres from 'postgres';
import { postgres } from './postgres.ts';

const folder = new URL('./migrations/', import.meta.url);
const lockKey = 0x10_46_a1; // any constant: the advisory lock under which one process migrates

/** The schema versions this release can live with: a process refuses to start on an older one. */
export const schemaVersion = 1;

/**
 * Brings the schema up to date. One file is one transaction, unless its first line says `-- no transaction`.
 * Forward only. Needs a direct connection (session-level lock), not a pooler.
 */
export async function migrate(url: string): Promise<void> {
  // The role's own time-outs are for queries; a migration, and the wait for somebody else's, may take long.
  const connection = { application_name: 'longhaul migrate', statement_timeout: 0, lock_timeout: 0 };
  const sql = postgres(url, { max: 1, connection, onnotice: () => {} });
  try {
    await sql`select pg_advisory_lock(${lockKey})`;
    await sql`create table if not exists migrations (version integer primary key, name text not null, applied_at timestamptz not null default now())`;
    const [{ version: current } = { version: 0 }] = await sql<{ version: number }[]>`
      select coalesce(max(version), 0)::int as version from migrations`;
    for (const { version, name, text } of await readMigrations()) {
      if (version > current) await apply(sql, version, name, text);
    }
  } finally {
    await sql.end();
  }
}

async function readMigrations() {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.sql')).toSorted();
  return Promise.all(
    names.map(async (name) => ({
      version: Number.parseInt(name, 10),
      name,
      text: await readFile(new URL(name, folder), 'utf8'),
    })),
  );
}

async function apply(sql: Postgres.Sql, version: number, name: string, text: string): Promise<void> {
  if (text.startsWith('-- no transaction')) {
    await sql.unsafe(text).simple();
    await sql`insert into migrations (version, name) values (${version}, ${name})`;
    return;
  }
  await retryLockTimeout(() =>
    sql.begin(async (tx) => {
      await tx`set local lock_timeout = '3s'`;
      await tx.unsafe(text).simple();
      await tx`insert into migrations (version, name) values (${version}, ${name})`;
    }),
  );
}

/** A migration that cannot have its lock at once steps back, so that it never queues the whole fleet behind itself. */
async function retryLockTimeout(work: () => Promise<unknown>, attempts = 20): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await work();
      return;
    } catch (error) {
      const lockTimedOut = error instanceof postgres.PostgresError && error.code === '55P03';
      if (!lockTimedOut || attempt >= attempts) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}
