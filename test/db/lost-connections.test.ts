import { once } from 'node:events';
import { connect as dial, createServer, type AddressInfo, type Socket } from 'node:net';
import { sql } from 'drizzle-orm';
import { expect, test } from 'vitest';
import { connect, type Database } from '../../db/client.ts';
import { judgeFailure } from '../../db/outcomes.ts';
import { makeDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const connections = 8;

/** A wire to a Postgres that can be cut: all connections at once, as when the server dies. */
async function openWire(url: string) {
  const server = new URL(url);
  const sockets = new Set<Socket>();
  const proxy = createServer((client) => {
    const upstream = dial(Number(server.port), server.hostname);
    for (const socket of [client, upstream]) {
      socket.on('error', () => {}).once('close', () => (client.destroy(), upstream.destroy(), sockets.delete(client)));
    }
    sockets.add(client);
    client.pipe(upstream).pipe(client);
  }).listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  // A server that listens on TCP has an address of this kind.
  const { port } = proxy.address() as AddressInfo;
  return {
    url: Object.assign(new URL(server), { port: String(port) }).href,
    cut: (how: 'destroy' | 'resetAndDestroy') => sockets.forEach((socket) => socket[how]()),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await once(proxy.close(), 'close');
    },
  };
}

/** Asks again at once, whatever happens, until it is stopped. */
function askWithoutEnd(ask: () => Promise<unknown>) {
  const unexpected: unknown[] = [];
  let answers = 0;
  let stopped = false;
  const one = async () => {
    while (!stopped) {
      await ask().then(
        () => (answers += 1),
        (error: unknown) => judgeFailure(error) === 'unknown' || unexpected.push(error),
      );
    }
  };
  const all = Promise.all(Array.from({ length: 2 * connections }, one));
  return { answers: () => answers, unexpected, stop: () => ((stopped = true), all) };
}

test.each<[string, (db: Database) => Promise<unknown>]>([
  ['statements', (db) => db.execute(sql`select 1`)],
  ['transactions', (db) => db.transaction((tx) => tx.execute(sql`select 1`))],
])('a pool of %s that loses its connections under load has all of them back afterwards', async (_, ask) => {
  await using database = await makeDatabase();
  await using wire = await openWire(database.url);
  const db = connect({ url: wire.url, max: connections });
  const load = askWithoutEnd(() => ask(db));
  for (let cuts = 0; cuts < 6; cuts += 1) {
    const before = load.answers();
    await eventually(() => load.answers() > before + 100);
    wire.cut(cuts % 2 === 0 ? 'destroy' : 'resetAndDestroy');
  }
  await load.stop();
  expect(load.unexpected).toEqual([]);
  const backend = () =>
    db.execute<{ pid: number }>(sql`select pg_backend_pid() as pid from pg_sleep(0.2)`).then(([row]) => row?.pid);
  // A statement may still come upon one that was cut last, and on a busy machine one may serve twice before another is there.
  await eventually(async () => {
    const pids = await Promise.all(Array.from({ length: connections }, backend));
    expect(new Set(pids).size).toBe(connections);
    return true;
  });
  await db.$client.end({ timeout: 1 });
});
