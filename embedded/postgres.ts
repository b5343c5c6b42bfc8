import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, chown, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import postgres from 'postgres';
import { z } from 'zod';
import { stopRecorded } from './pid-files.ts';
import { choosePort } from './ports.ts';
import { chooseLauncher, commandFor, type Launcher } from './postgres-launcher.ts';
import { startProcess, untilReady, type Part } from './processes.ts';

const run = promisify(execFile);

export type PostgresOptions = {
  /** Everything it keeps is in here: the cluster, passwords (mode 600), log, pid. Made when missing. */
  dataDir: string;
  /** 0: any free one. */
  port: number;
  onProgress?: (text: string) => void;
  /** The programs of another Postgres (15 or later) instead of the bundled one. */
  binDir?: string | undefined;
  /** Server settings beside or instead of ours. */
  settings?: Record<string, string>;
};

export type RunningPostgres = Part & {
  /** As the role `longhaul`, owner of the database `longhaul`, with time-outs; no superuser. */
  url: string;
  superuserUrl: string;
  port: number;
};

const passwordsSchema = z.object({ postgres: z.string(), longhaul: z.string() });
type Passwords = z.infer<typeof passwordsSchema>;

const defaultSettings = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  password_encryption: 'scram-sha-256',
  max_connections: '200',
  wal_compression: 'on',
  jit: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_min_messages: 'warning',
};

/** How long the role `longhaul` may run a statement, wait for a lock, or leave a transaction idle. */
const roleTimeouts = { statement_timeout: '30s', lock_timeout: '10s', idle_in_transaction_session_timeout: '60s' };

/** A shutdown waits for a checkpoint; after this long it is forced, and the next start recovers from the log. */
const stopWithinMs = 15_000;

/** Crash recovery reads back what was written since the last checkpoint, which may take a while. */
const readyWithinMs = 120_000;

type Start = Required<Pick<PostgresOptions, 'dataDir' | 'port' | 'onProgress' | 'settings'>> & {
  launcher: Launcher;
  passwords: Passwords;
};

/**
 * Starts the Postgres of a folder and waits until it answers; makes the cluster on the first start. One left running by
 * a supervisor that was killed is stopped first. Data survives restarts and kill -9.
 */
export async function startPostgres({
  dataDir: folder,
  port: wantedPort,
  onProgress = () => {},
  binDir,
  settings = {},
}: PostgresOptions): Promise<RunningPostgres> {
  const dataDir = resolve(folder);
  await mkdir(dataDir, { recursive: true });
  await chmod(dataDir, 0o711); // the server's own user passes through; what is inside has its own modes
  const launcher = await chooseLauncher(dataDir, binDir);
  const passwords = await readPasswords(dataDir);
  await stopRecorded(pidFileOf(dataDir), 'SIGINT', stopWithinMs); // here already: it may hold the port and the lock
  const port = await choosePort(wantedPort, '--postgres-port');
  const start = { dataDir, port, onProgress, settings, launcher, passwords };
  if (!existsSync(clusterOf(dataDir))) await initialise(start);

  const server = await startUntilReady(start);
  return {
    ...server,
    port,
    url: urlOf('longhaul', passwords, port, 'longhaul'),
    superuserUrl: urlOf('postgres', passwords, port, 'postgres'),
  };
}

const clusterOf = (dataDir: string): string => join(dataDir, 'cluster');

const pidFileOf = (dataDir: string): string => join(dataDir, 'postgres.pid');

const logOf = (dataDir: string): string => join(dataDir, 'postgres.log');

const urlOf = (role: keyof Passwords, passwords: Passwords, port: number, database: string): string =>
  `postgres://${role}:${passwords[role]}@127.0.0.1:${port}/${database}`;

/** Not ours: what stands there about Postgres (PGDATA, PGPORT, PGOPTIONS) is about somebody else's. */
const environment = (): NodeJS.ProcessEnv => ({ PATH: process.env['PATH'], LC_ALL: 'C' });

async function readPasswords(dataDir: string): Promise<Passwords> {
  const file = join(dataDir, 'passwords.json');
  if (!existsSync(file)) {
    const made = { postgres: randomBytes(24).toString('hex'), longhaul: randomBytes(24).toString('hex') };
    await writeFile(file, JSON.stringify(made), { mode: 0o600, flag: 'wx' });
  }
  return passwordsSchema.parse(JSON.parse(await readFile(file, 'utf8')));
}

/** Makes the cluster beside its final place, so that one cut off half-way is never taken for a whole one. */
async function initialise({ dataDir, launcher, passwords, settings, onProgress }: Start): Promise<void> {
  onProgress('creating the database cluster (once, a few seconds)');
  const unfinished = join(dataDir, 'cluster.unfinished');
  const passwordFile = join(dataDir, 'initdb-password');
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { mode: 0o700 });
  await writeFile(passwordFile, passwords.postgres, { mode: 0o600 });
  if (launcher.owner) {
    await chown(unfinished, launcher.owner.uid, launcher.owner.gid);
    await chown(passwordFile, launcher.owner.uid, launcher.owner.gid);
  }
  const { command, args } = commandFor(launcher, 'initdb', [
    `--pgdata=${unfinished}`,
    `--pwfile=${passwordFile}`,
    '--username=postgres',
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
    '--data-checksums',
    ...(settings['fsync'] === 'off' ? ['--no-sync'] : []),
  ]);
  try {
    await run(command, args, { cwd: dataDir, env: environment(), ...launcher.user });
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rename(unfinished, clusterOf(dataDir));
}

/**
 * After a kill -9 the old server's children may hold its memory for a moment more, and Postgres rightly refuses to
 * start on it: that start is tried again, anything else is an error with the server's own last words.
 */
async function startUntilReady(options: Start): Promise<Part> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const server = await launchServer(options);
    try {
      await untilReady(server, {
        name: 'Postgres',
        logFile: logOf(options.dataDir),
        withinMs: readyWithinMs,
        ask: (giveUp) => prepare(options, giveUp),
      });
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      const stillHeld = error instanceof Error && error.message.includes('pre-existing shared memory block');
      if (!stillHeld || Date.now() > deadline) throw error;
      await delay(200);
    }
  }
}

async function launchServer({ dataDir, port, launcher, settings }: Start): Promise<Part> {
  const cluster = clusterOf(dataDir);
  const all = { ...defaultSettings, ...settings, port: String(port) };
  const flags = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  await disownLock(cluster);
  return startProcess({
    ...commandFor(launcher, 'postgres', ['-D', cluster, ...flags]),
    cwd: cluster,
    env: environment(),
    user: launcher.user,
    stopSignal: 'SIGINT', // Postgres' fast shutdown: roll back, disconnect, checkpoint
    stopWithinMs,
    pidFile: pidFileOf(dataDir),
    logFile: logOf(dataDir),
  });
}

/**
 * The server that wrote `postmaster.pid` is gone, but its number may by now be another process', or a dead one nobody
 * reaps, and Postgres would take that for a rival. It never takes its own parent for one: we put ourselves in that line.
 * The second safeguard in the file, the shared memory of a server that still lives, stays as it is.
 */
async function disownLock(cluster: string): Promise<void> {
  const file = join(cluster, 'postmaster.pid');
  if (!existsSync(file)) return;
  const [, ...rest] = (await readFile(file, 'utf8')).split('\n');
  await writeFile(file, [process.pid, ...rest].join('\n'));
}

/** Asks until it answers, then sees to it that our role and database are there and as they should be. */
async function prepare({ port, passwords, onProgress }: Start, giveUp: AbortSignal): Promise<void> {
  const sql = postgres(urlOf('postgres', passwords, port, 'postgres'), { max: 1, onnotice: () => {} });
  try {
    await untilItAnswers(sql, onProgress, giveUp);
    await ensureDatabase(sql, passwords.longhaul);
  } finally {
    await sql.end({ timeout: 1 });
  }
}

async function untilItAnswers(sql: postgres.Sql, onProgress: (text: string) => void, giveUp: AbortSignal) {
  for (let attempt = 1; ; attempt++) {
    try {
      await sql`select 1`;
      return;
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      const isComing = code === 'ECONNREFUSED' || code === '57P03'; // not listening yet, or "starting up"
      if (!isComing || giveUp.aborted) throw error;
      if (attempt % 100 === 0) onProgress('recovering after an unclean stop');
      await delay(25);
    }
  }
}

async function ensureDatabase(sql: postgres.Sql, password: string): Promise<void> {
  const [role] = await sql`select from pg_roles where rolname = 'longhaul'`;
  if (!role) await sql`create role longhaul login`;
  // The password is hexadecimal and the time-outs are constants: utility statements take no parameters.
  await sql.unsafe(`alter role longhaul password '${password}'`);
  for (const [name, value] of Object.entries(roleTimeouts)) {
    await sql.unsafe(`alter role longhaul set ${name} = '${value}'`);
  }
  const [database] = await sql`select from pg_database where datname = 'longhaul'`;
  if (!database) await sql`create database longhaul owner longhaul`;
}
