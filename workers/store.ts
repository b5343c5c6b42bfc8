import { openFileSystem } from '../files/file-system.ts';
import type { S3Options } from '../files/s3.ts';
import type { Store } from '../files/store.ts';

/** Where artifacts are kept: a folder, or a bucket. */
export async function openStore(config: { folder: string } | { s3: S3Options }): Promise<Store> {
  if ('folder' in config) return openFileSystem(config.folder);
  // The S3 client is large: a process that has no use for it does not load it.
  const { openS3 } = await import('../files/s3.ts');
  return openS3(config.s3);
}
