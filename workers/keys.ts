import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';

/** A symmetric key: 32 bytes, base64, in a file of mode 600. */
export async function readKey(file: string): Promise<Uint8Array> {
  const key = Buffer.from((await readFile(file, 'utf8')).trim(), 'base64');
  if (key.length !== 32) throw new Error(`the key in ${file} is not 32 bytes in base64`);
  return key;
}

/** Makes the key's file when there is none. Of two that do so at once, one makes it. */
export async function ensureKey(file: string): Promise<void> {
  await writeFile(file, `${randomBytes(32).toString('base64')}\n`, { mode: 0o600, flag: 'wx' }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    },
  );
}
