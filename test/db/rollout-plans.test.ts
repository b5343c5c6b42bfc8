import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, type Database } from '../../db/client.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { makeCrowd, makeDevices, makeLedger, makeRollout } from '../support/rollouts.ts';

const fleet = 3_000;
const inFlightMax = 30;

let database: TestDatabase;
/** A single connection, so that it can be told to say what it has read. */
let db: Database;
beforeAll(async () => {
  database = await makeDatabase();
  db = connect({ url: database.url, max: 1, applicationName: 'test' });
  await makeDevices(db, fleet);
}, 120_000);
afterAll(async () => {
  await db?.$client.end({ timeout: 1 });
  await database?.[Symbol.asyncDispose]();
});

/** Rows of executions and targets that were read so far, whether they were of use or not. */
async function countReads(): Promise<number> {
  await db.execute(sql`select pg_stat_force_next_flush()`);
  await db.execute(sql`select pg_stat_clear_snapshot()`);
  const [row] = await db.execute<{ reads: number }>(sql`
    select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::float8 as reads from pg_stat_user_tables
    where relname like 'executions%' or relname like 'rollout_targets%'`);
  return row?.reads ?? 0;
}

/** Reads of each review of a rollout to everybody, from the first to the last device. */
async function conduct(): Promise<number[]> {
  const ledger = makeLedger({ db });
  const crowd = makeCrowd(db);
  const id = await makeRollout(db, { plan: { pace: { inFlightMax } } });
  await ledger.enlist(id);
  const reads: number[] = [];
  for (;;) {
    const before = await countReads();
    const { status } = await ledger.review(id);
    reads.push((await countReads()) - before);
    if (status === 'FINISHED') return reads;
    await crowd.succeed(await crowd.busy());
  }
}

test('a review reads what is in flight, also when the tables were last analysed after another rollout', async () => {
  const first = await conduct();
  await db.execute(sql`analyze executions`);
  await db.execute(sql`analyze rollout_targets`);
  const second = await conduct();
  process.stdout.write(`reads of a review: at most ${Math.max(...first)}, then ${Math.max(...second)}\n`);
  expect(Math.max(...second)).toBeLessThan(20 * inFlightMax);
}, 120_000);
