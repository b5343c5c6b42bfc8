import { randomBytes } from 'node:crypto';
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { promisify } from 'node:util';
import postgres from 'postgres';
import { inject } from 'vitest';
import { connect, type Database } from '../../db/client.ts';
import { startPostgres } from '../../embedded/postgres.ts';
import { copyCluster, testSettings } from './clusters.ts';

const run = promisify(execFile);

export type TestDatabase = AsyncDisposable & {
  db: Database;
  /** What a process gets as DATABASE_URL; role and time-outs as in production. */
  url: string;
  directUrl: string;
};

/** A database of its own on the run's server, with the schema; copied as files, which costs two thirds of copying it by its log. */
export async function makeDatabase(): Promise<TestDatabase> {
  const server = inject('postgres');
  const name = `test_${randomBytes(6).toString('hex')}`;
  await asSuperuser(server.superuserUrl, (sql) =>
    sql.unsafe(`create database ${name} template longhaul owner longhaul strategy file_copy`),
  );
  const url = Object.assign(new URL(server.url), { pathname: `/${name}` }).href;
  const db = connect({ url, applicationName: 'test' });
  return {
    db,
    url,
    directUrl: url,
    async [Symbol.asyncDispose]() {
      await db.$client.end({ timeout: 1 });
      await asSuperuser(server.superuserUrl, (sql) => sql.unsafe(`drop database ${name} with (force)`));
    },
  };
}

async function asSuperuser(url: string, work: (sql: postgres.Sql) => Promise<unknown>): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    await work(sql);
  } finally {
    await sql.end({ timeout: 1 });
  }
}

export type OwnPostgres = AsyncDisposable & {
  url: string;
  directUrl: string;
  /** kill -9, and waits until the server is gone. */
  kill(): Promise<void>;
  /** After a kill: the same data under the same address. */
  start(): Promise<void>;
  /** Stops every process of the server where it is (SIGSTOP): connections stay open, nothing answers. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
};

/** A Postgres of the test's own, with the schema, for tests that kill or freeze it. */
export async function ownPostgres(): Promise<OwnPostgres> {
  const { binDir } = inject('postgres');
  const dataDir = await copyCluster(inject('folder'));
  let server = await startPostgres({ dataDir, port: 0, binDir, settings: testSettings });
  const { url, port } = server;
  const signalAll = async (signal: NodeJS.Signals) => {
    server.kill(signal); // first, so that the list of its children is final
    for (const pid of await childrenOf(server.pid)) sendSignal(pid, signal);
  };
  return {
    url,
    directUrl: url,
    async kill() {
      server.kill('SIGKILL');
      await server.exited;
    },
    async start() {
      server = await startPostgres({ dataDir, port, binDir, settings: testSettings });
    },
    freeze: () => signalAll('SIGSTOP'),
    thaw: () => signalAll('SIGCONT'),
    async [Symbol.asyncDispose]() {
      await signalAll('SIGCONT');
      await server[Symbol.asyncDispose]();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}

async function childrenOf(pid: number): Promise<number[]> {
  const { stdout } = await run('ps', ['-A', '-o', 'pid=,ppid=']);
  const pairs = stdout
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number));
  return pairs.flatMap(([child, parent]) => (child && parent === pid ? [child] : []));
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it ended between the listing and now
  }
}
