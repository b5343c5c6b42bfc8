import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Replaces a file whole. When it resolves, name and content are where a power cut leaves them. */
export async function writeDurably(file: string, content: string): Promise<void> {
  {
    await using handle = await open(`${file}.new`, 'w', 0o600);
    await handle.writeFile(content);
    await handle.sync();
  }
  await renameDurably(`${file}.new`, file);
}

/** Within one file system; what is renamed has its content on the disk already. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to);
  await syncFolder(dirname(to));
}

/** A file or a folder with what is in it; none there is as good. */
export async function removeDurably(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true });
  await syncFolder(dirname(path));
}

/** The names in a folder are on the disk; on those of other folders it says nothing. */
export async function syncFolder(folder: string): Promise<void> {
  await using handle = await open(folder, 'r');
  await handle.sync();
}
