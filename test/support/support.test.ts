import { expect, test } from 'vitest';
import { makeDatabase } from './database.ts';
import { eventually } from './eventually.ts';
import { workflowBundle } from './temporal.ts';

test('each database has the schema and nothing of its neighbour', async () => {
  await using one = await makeDatabase();
  await using two = await makeDatabase();
  await one.db.$client`create table mine (n int)`;

  const tablesOf = async ({ db }: typeof one) =>
    (await db.$client<{ name: string }[]>`select tablename as name from pg_tables where schemaname = 'public'`).map(
      ({ name }) => name,
    );
  expect(await tablesOf(one)).toEqual(expect.arrayContaining(['mine', 'migrations', 'devices']));
  expect(await tablesOf(two)).toContain('devices');
  expect(await tablesOf(two)).not.toContain('mine');
});

test('eventually waits for what is found or holds, and gives up with the last reason', async () => {
  let calls = 0;
  expect(await eventually(() => (++calls < 3 ? null : 'found'))).toBe('found');
  await eventually(() => expect(++calls).toBeGreaterThan(6));
  await expect(eventually(() => expect(1).toBe(2), { withinMs: 50 })).rejects.toThrow('expected 1 to be 2');
  await expect(eventually(() => false, { withinMs: 50 })).rejects.toThrow('still false after 50 ms');
});

test('the workflows are bundled once for the run', async () => {
  const bundles = await Promise.all([workflowBundle(), workflowBundle()]);
  expect(bundles[0]).toEqual(bundles[1]);
});
