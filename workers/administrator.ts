import { readFile, writeFile } from 'node:fs/promises';
import { mintApiKey, readApiKey } from '../api/auth.ts';
import { hasApiKey, insertApiKey } from '../db/api-keys.ts';
import type { Database } from '../db/client.ts';

/**
 * Mints the first API key and returns its token; undefined when there is a key already. Where a file is named, the token
 * is in it (mode 600) before its hash is in the database: a crash between the two loses no key, the next start goes on.
 */
export async function ensureAdministrator(db: Database, file: string | undefined): Promise<string | undefined> {
  if (await hasApiKey(db)) return undefined;
  const kept = file && (await readFile(file, 'utf8').catch(() => undefined))?.trim();
  const keptKey = kept && readApiKey('administrator', kept);
  if (keptKey) {
    await insertApiKey(db, 'system/init', keptKey);
    return kept;
  }
  const { token, key } = mintApiKey('administrator');
  if (file) await writeFile(file, `${token}\n`, { mode: 0o600 });
  await insertApiKey(db, 'system/init', key);
  return token;
}
