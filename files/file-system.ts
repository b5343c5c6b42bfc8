import { randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { ContentGone, type Store } from './store.ts';

/** What a process that was killed has left unfinished is removed after this long: longer than any upload takes. */
const abandonedAfterMs = 24 * 3_600_000;
const chunkBytes = 256 * 1024;

/**
 * Content in a folder, which may be shared by several machines: `<folder>/<two digits>/<digest>`. What is coming in has a
 * name of its own in `incoming/` and takes its final one when it is whole and on the disk.
 */
export async function openFileSystem(folder: string): Promise<Store> {
  const incoming = join(folder, 'incoming');
  const folderOf = (sha256: string) => join(folder, sha256.slice(0, 2));
  const fileOf = (sha256: string) => join(folderOf(sha256), sha256);
  await mkdir(incoming, { recursive: true, mode: 0o750 });
  await sweep(incoming);

  return {
    async write(sha256, content) {
      const unfinished = join(incoming, `${sha256}.${randomUUID()}`);
      try {
        // Flushed before it is closed: a name never stands for bytes that a power cut could take.
        const file = createWriteStream(unfinished, {
          flags: 'wx',
          mode: 0o640,
          flush: true,
          highWaterMark: chunkBytes,
        });
        await pipeline(content, file);
        await mkdir(folderOf(sha256), { recursive: true, mode: 0o750 });
        await rename(unfinished, fileOf(sha256));
        await Promise.all([flushFolder(folderOf(sha256)), flushFolder(folder)]);
      } finally {
        await rm(unfinished, { force: true });
      }
    },
    async find(sha256) {
      const found = await stat(fileOf(sha256)).catch(unlessMissing);
      return found && { size: found.size };
    },
    async read(sha256, { first, last }, signal) {
      const file = await open(fileOf(sha256)).catch(unlessMissing);
      if (!file) throw new ContentGone(`there is no ${sha256} in the folder`);
      return createReadStream('', { fd: file, start: first, end: last, highWaterMark: chunkBytes, signal });
    },
    probe: async () => void (await stat(incoming)),
  };
}

/** A new name is in its folder for good when the folder is flushed, too. */
async function flushFolder(folder: string): Promise<void> {
  const handle = await open(folder);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function sweep(incoming: string): Promise<void> {
  for (const name of await readdir(incoming)) {
    const file = join(incoming, name);
    const found = await stat(file).catch(unlessMissing);
    if (found && Date.now() - found.mtimeMs > abandonedAfterMs) await rm(file, { force: true });
  }
}

function unlessMissing(error: unknown): undefined {
  if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
  throw error;
}
