import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { openFileSystem } from '../../files/file-system.ts';
import type { Store } from '../../files/store.ts';
import { holdsMemoryFlat } from './flat-memory.ts';
import { keepsItsPromises } from './stores.ts';

let folder: string;
let store: Store;
beforeAll(async () => {
  folder = await mkdtemp(join(inject('folder'), 'artifacts-'));
  store = await openFileSystem(folder);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const listFiles = async () => {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map(({ name }) => name)
    .toSorted();
};

keepsItsPromises(() => store, listFiles);
holdsMemoryFlat(() => ({}), { marginMebibytes: 96 });

test('what a killed process left unfinished goes a day later, and what is coming in stays', async () => {
  const [old, fresh] = [join(folder, 'incoming', 'old'), join(folder, 'incoming', 'fresh')];
  await writeFile(old, 'half');
  await writeFile(fresh, 'half');
  const twoDaysAgo = new Date(Date.now() - 2 * 86_400_000);
  await utimes(old, twoDaysAgo, twoDaysAgo);
  await openFileSystem(folder);
  expect(await readdir(join(folder, 'incoming'))).toEqual(['fresh']);
  await rm(fresh);
});

test('nobody else on the machine may read it', async () => {
  const sha256 = 'a'.repeat(64);
  await store.write(
    sha256,
    (async function* () {
      yield Buffer.from('x');
    })(),
  );
  expect((await stat(join(folder, 'aa', sha256))).mode & 0o007).toBe(0);
});

test('a folder that goes away is missed', async () => {
  const own = join(folder, 'own');
  await mkdir(own);
  const another = await openFileSystem(own);
  await rm(own, { recursive: true });
  await expect(another.probe()).rejects.toThrow('ENOENT');
});
