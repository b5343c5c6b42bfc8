import { mkdtemp, readFile, rm, stat, writeFile, chmod } from 'node:fs/promises';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import postgres from 'postgres';
import { afterEach, beforeEach, expect, inject, test } from 'vitest';
import { startPostgres } from '../../embedded/postgres.ts';
import { copyCluster, testSettings } from '../support/clusters.ts';
import { ownPostgres } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const { binDir } = inject('postgres');
let dataDir: string;

beforeEach(async () => {
  dataDir = await copyCluster(inject('folder'));
});
afterEach(() => rm(dataDir, { recursive: true, force: true }));

const start = (options: { port?: number } = {}) =>
  startPostgres({ dataDir, port: 0, binDir, settings: testSettings, ...options });

async function ask<Row>(url: string, query: string): Promise<Row[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    return await sql.unsafe<Row[]>(query);
  } finally {
    await sql.end({ timeout: 1 });
  }
}

test('rows survive a stop, and a kill -9 of the server', async () => {
  const first = await start();
  await ask(first.url, 'create table kept (n int); insert into kept values (1)');
  await first[Symbol.asyncDispose]();

  const second = await start();
  await ask(second.url, 'insert into kept values (2)');
  second.kill('SIGKILL');
  await second.exited;

  await using third = await start();
  expect(await ask(third.url, 'select n from kept order by n')).toEqual([{ n: 1 }, { n: 2 }]);
});

test('one left running in the folder is stopped, and the next takes its place under the same port', async () => {
  const left = await start();
  await using next = await start({ port: left.port });
  expect(await left.exited).toBe('exit code 0');
  expect(await ask(next.url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('a lock file that names a living stranger does not keep the server from starting', async () => {
  const first = await start();
  const lock = join(dataDir, 'cluster', 'postmaster.pid');
  const [, ...rest] = (await readFile(lock, 'utf8')).split('\n');
  first.kill('SIGKILL');
  await first.exited;
  // As after a restart of a container, where numbers begin anew; Postgres heeds only processes of its own user.
  const [stranger] = await ask<{ pid: number }>(
    inject('postgres').superuserUrl,
    `select pid from pg_stat_activity where backend_type = 'checkpointer'`,
  );
  await writeFile(lock, [stranger?.pid, ...rest].join('\n'));

  await using second = await start();
  expect(await ask(second.url, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('the role of the processes is no superuser and has time-outs; a wrong password is refused', async () => {
  await using server = await start();
  const [role] = await ask<{ rolsuper: boolean; rolcreaterole: boolean; rolconfig: string[] }>(
    server.url,
    'select rolsuper, rolcreaterole, rolconfig from pg_roles where rolname = current_user',
  );
  expect(role).toMatchObject({ rolsuper: false, rolcreaterole: false });
  expect(role?.rolconfig.map((setting) => setting.split('=')[0])).toEqual(
    expect.arrayContaining(['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']),
  );
  const wrong = Object.assign(new URL(server.url), { password: 'longhaul' }).href;
  await expect(ask(wrong, 'select 1')).rejects.toThrow('password authentication failed');
  expect((await stat(join(dataDir, 'passwords.json'))).mode & 0o777).toBe(0o600);
});

test('it listens on this machine only and keeps what it acknowledged by default', async () => {
  await using server = await startPostgres({ dataDir, port: 0, binDir });
  const settings = await ask<{ name: string; setting: string }>(
    server.url,
    `select name, setting from pg_settings
     where name in ('listen_addresses', 'fsync', 'synchronous_commit', 'full_page_writes') order by name`,
  );
  expect(Object.fromEntries(settings.map(({ name, setting }) => [name, setting]))).toEqual({
    fsync: 'on',
    full_page_writes: 'on',
    listen_addresses: '127.0.0.1',
    synchronous_commit: 'on',
  });
});

test('a first start makes the cluster and tells that it does', async () => {
  const empty = await mkdtemp(join(tmpdir(), 'longhaul-empty-'));
  await chmod(empty, 0o711);
  const told: string[] = [];
  try {
    await using server = await startPostgres({
      dataDir: join(empty, 'postgres'),
      port: 0,
      binDir,
      settings: testSettings,
      onProgress: (text) => told.push(text),
    });
    expect(await ask(server.url, 'select current_database() as name')).toEqual([{ name: 'longhaul' }]);
    expect(told).toEqual(['creating the database cluster (once, a few seconds)']);
  } finally {
    await rm(empty, { recursive: true });
  }
});

test('a folder that nobody else may enter serves all the same', async () => {
  const closed = await mkdtemp(join(tmpdir(), 'longhaul-closed-')); // mode 700
  try {
    await using server = await startPostgres({
      dataDir: join(closed, 'postgres'),
      port: 0,
      binDir,
      settings: testSettings,
    });
    expect(await ask(server.url, 'select 1 as one')).toEqual([{ one: 1 }]);
  } finally {
    await rm(closed, { recursive: true });
  }
});

test('a port in use is an error that names it and the flag', async () => {
  const squatter = createServer().listen(0, '127.0.0.1');
  await once(squatter, 'listening');
  const address = squatter.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  await expect(start({ port })).rejects.toThrow(
    `Port ${port} is in use: free it, or choose another with --postgres-port`,
  );
  squatter.close();
});

test("a cluster it cannot use is an error with the server's own words", async () => {
  await rm(join(dataDir, 'cluster', 'global'), { recursive: true });
  await expect(start()).rejects.toThrow(
    /^Postgres stopped while starting \(exit code \d\): postgres: could not find.*pg_control/,
  );
});

test('frozen, it answers nobody; thawed, it answers what was asked', async () => {
  await using server = await ownPostgres();
  const sql = postgres(server.url, { max: 1 });
  await sql`select 1`;

  await server.freeze();
  let answered = false;
  const answer = sql`select 2 as two`.then((rows) => {
    answered = true;
    return rows;
  });
  await expect(eventually(() => answered, { withinMs: 300 })).rejects.toThrow('still false');
  await server.thaw();
  expect(await answer).toEqual([{ two: 2 }]);
  await sql.end();
});
