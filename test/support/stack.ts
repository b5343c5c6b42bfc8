import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import postgres from 'postgres';
import type { TestProject } from 'vitest/node';
import { migrate } from '../../db/migrate.ts';
import { findRecorded, holdFolder } from '../../embedded/pid-files.ts';
import { startPostgres } from '../../embedded/postgres.ts';
import { startTemporal, temporalBinary } from '../../embedded/temporal.ts';
import { searchAttributes } from '../../workflows/search-attributes.ts';
import { copyCluster, testSettings } from './clusters.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** The run's temporary folder. */
    folder: string;
    postgres: { url: string; superuserUrl: string; binDir: string | undefined };
    temporal: { address: string; namespace: string };
  }
}

const prefix = 'longhaul-test-';

/**
 * One Postgres and one Temporal for the whole run, on free ports, in a temporary folder. Another Postgres than the
 * bundled one is tried with LONGHAUL_TEST_POSTGRES_BIN=/usr/lib/postgresql/15/bin.
 */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  if (!existsSync(temporalBinary)) throw new Error('No Temporal yet: run the tests with `npm test`, which finds one');
  await sweep();
  const folder = await mkdtemp(join(tmpdir(), prefix));
  await chmod(folder, 0o711); // Postgres may run as another user, and passes through
  const binDir = process.env['LONGHAUL_TEST_POSTGRES_BIN'];
  const resources = new AsyncDisposableStack();
  resources.defer(() => rm(folder, { recursive: true, force: true }));
  try {
    resources.use(await holdFolder(folder));
    const starts = [startSharedPostgres(folder, binDir), startSharedTemporal(folder)] as const;
    for (const start of starts) resources.defer(() => stop(start));
    const [server, temporal] = await Promise.all(starts);
    project.provide('folder', folder);
    project.provide('postgres', { url: server.url, superuserUrl: server.superuserUrl, binDir });
    project.provide('temporal', { address: temporal.address, namespace: temporal.namespace });
  } catch (error) {
    await resources.disposeAsync();
    throw error;
  }
  return () => resources.disposeAsync();
}

/** The cluster is made, migrated and stopped once, so that a test that kills its own Postgres starts from a copy. */
async function startSharedPostgres(folder: string, binDir: string | undefined) {
  const dataDir = join(folder, 'postgres-template');
  {
    await using template = await startPostgres({ dataDir, port: 0, binDir, settings: testSettings });
    await migrate(template.url);
  }
  const copy = await copyCluster(folder);
  const server = await startPostgres({ dataDir: copy, port: 0, binDir, settings: testSettings });
  await closeTemplate(server.superuserUrl);
  return server;
}

/** A database that somebody is connected to cannot be copied, so nobody may connect to the one that all are copies of. */
async function closeTemplate(superuserUrl: string): Promise<void> {
  const sql = postgres(superuserUrl, { max: 1 });
  await sql`alter database longhaul allow_connections false`;
  await sql.end({ timeout: 1 });
}

function startSharedTemporal(folder: string) {
  return startTemporal({
    dataDir: join(folder, 'temporal'),
    port: 0,
    namespace: 'longhaul',
    searchAttributes: Object.values(searchAttributes).map(({ name }) => name),
    inMemory: true,
  });
}

/** Stops what is starting, once it has started; a start that failed left nothing. */
async function stop(start: Promise<AsyncDisposable>): Promise<void> {
  const started = await start.catch(() => undefined);
  await started?.[Symbol.asyncDispose]();
}

/** Removes what runs that were killed left behind; their servers ended with them. */
async function sweep(): Promise<void> {
  const names = (await readdir(tmpdir())).filter((name) => name.startsWith(prefix));
  for (const folder of names.map((name) => join(tmpdir(), name))) {
    const ageMs = Date.now() - (await stat(folder)).mtimeMs;
    if (ageMs < 60_000 || (await findRecorded(join(folder, 'holder.pid')))) continue;
    await rm(folder, { recursive: true, force: true }).catch(() => {}); // another user's
  }
}
