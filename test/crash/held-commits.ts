import postgres from 'postgres';
import { sql } from 'drizzle-orm';
import type { Database } from '../../db/client.ts';
import { eventually } from '../support/eventually.ts';

export type HeldCommits = {
  /** Until so many transactions of this process want to commit. */
  reached(count: number, applicationName: string): Promise<void>;
  /** They commit, also those of a process that is gone. */
  release(): Promise<void>;
};

const lock = 4_711;

/**
 * Holds every transaction that inserts into one of these tables where it commits, until it is let go. Who is killed in
 * between has done its work and not heard of it: Postgres commits, and the answer goes nowhere.
 */
export async function holdCommits(db: Database, tables: string[]): Promise<HeldCommits> {
  await db.execute(sql`
    create or replace function hold_commit() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock_shared(${sql.raw(String(lock))}); return null; end $$`);
  for (const table of tables) {
    await db.execute(sql`
      create constraint trigger hold_commit after insert on ${sql.identifier(table)}
      deferrable initially deferred for each row execute function hold_commit()`);
  }
  const { host, port, database, user, pass } = db.$client.options;
  const options = { host: host[0] ?? '', port: port[0] ?? 0, database, username: user, max: 1 };
  const holder = postgres({ ...options, ...(typeof pass === 'string' && { password: pass }) });
  await holder`select pg_advisory_lock(${lock})`;
  return {
    async reached(count, applicationName) {
      await eventually(
        async () => {
          const [row] = await db.execute<{ held: number }>(sql`
            select count(*)::int as held from pg_stat_activity
            where datname = current_database() and application_name = ${applicationName} and wait_event = 'advisory'`);
          expectHeld(row?.held ?? 0, count);
        },
        { withinMs: 30_000 },
      );
    },
    release: () => holder.end({ timeout: 5 }),
  };
}

function expectHeld(held: number, count: number): void {
  if (held !== count) throw new Error(`${held} transactions want to commit, not ${count}`);
}
