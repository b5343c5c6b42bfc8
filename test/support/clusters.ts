import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** For servers whose data ends with the run: they need not survive a power cut, and do survive kill -9. */
export const testSettings = { fsync: 'off', full_page_writes: 'off' };

/** A folder for a new Postgres of the run, with the schema in its database `longhaul`. Takes a tenth of a second. */
export async function copyCluster(folder: string): Promise<string> {
  const copy = join(folder, `postgres-${randomBytes(4).toString('hex')}`);
  await run('cp', ['-a', join(folder, 'postgres-template'), copy]); // keeps the owner, as Postgres demands
  return copy;
}
