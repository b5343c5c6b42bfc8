import { randomUUIDv7 } from 'node:crypto';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deafWire, localWire, postgresWire, type Hint } from '../../gateway/wire.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
beforeAll(async () => void (database = await makeDatabase()));
afterAll(() => database[Symbol.asyncDispose]());

describe('the wire over Postgres', () => {
  test('carries each kind of hint to every process', async () => {
    await using talker = await postgresWire({ directUrl: database.url });
    await using listener = await postgresWire({ directUrl: database.url });
    const heard: Hint[] = [];
    listener.hear((hint) => heard.push(hint));
    const hints: Hint[] = [
      { feed: true },
      { events: true },
      { orders: [randomUUIDv7()] },
      { close: { identityKey: 'device/x', clientId: 'a', epochBelow: 4 } },
    ];
    for (const hint of hints) talker.tell(hint);
    await eventually(() => heard.length === hints.length);
    expect(heard).toEqual(hints);
  });

  test('splits a hint for a thousand devices, which no single notification would hold', async () => {
    await using wire = await postgresWire({ directUrl: database.url });
    const heard: string[] = [];
    wire.hear((hint) => void ('orders' in hint && heard.push(...hint.orders)));
    const orders = Array.from({ length: 1_000 }, () => randomUUIDv7());
    wire.tell({ orders });
    await eventually(() => heard.length === orders.length);
    expect(heard).toEqual(orders);
  });

  test('hears again after its connections were cut', async () => {
    await using wire = await postgresWire({ directUrl: database.url });
    let heard = 0;
    wire.hear(() => (heard += 1));
    const admin = postgres(database.url, { max: 1 });
    for (let cut = 1; cut <= 2; cut += 1) {
      await admin`select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'longhaul wire' and datname = current_database()`;
      const before = heard;
      await eventually(() => {
        wire.tell({ feed: true });
        return heard > before;
      });
    }
    await admin.end();
  });

  test('ignores what is not a hint', async () => {
    await using wire = await postgresWire({ directUrl: database.url });
    const heard: Hint[] = [];
    wire.hear((hint) => heard.push(hint));
    await database.db.$client`select pg_notify('longhaul', 'not json')`;
    wire.tell({ events: true });
    await eventually(() => heard.length > 0);
    expect(heard).toEqual([{ events: true }]);
  });
});

test('the local wire hears what it tells, and the deaf one nothing', async () => {
  const heard: string[] = [];
  const [local, deaf] = [localWire(), deafWire()];
  local.hear(() => heard.push('local'));
  deaf.hear(() => heard.push('deaf'));
  deaf.tell({ feed: true });
  local.tell({ feed: true });
  await eventually(() => heard.length > 0);
  expect(heard).toEqual(['local']);
});
