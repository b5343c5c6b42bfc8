import { readFile, writeFile } from 'node:fs/promises';
import type { Database, Db } from '../db/client.ts';
import { findOrderKey, hasOrderKey, publishOrderKeys } from '../db/order-keys.ts';
import { createOrderSigner, readOrderKeys, type SignOrder } from '../pki/orders.ts';
import { describeKey, makeReleaseKey } from '../pki/release-keys.ts';

/**
 * Publishes the public halves of the keys in the file, and makes the file with one key at the first start. Once there are
 * keys, a file that is gone is a fault: devices know the old keys, and would refuse every order of a new one.
 */
export async function ensureOrderKeys(db: Database, file: string): Promise<void> {
  const isFirst = !(await hasOrderKey(db));
  if (isFirst) await makeFile(file);
  const keys = await Promise.all((await readKeys(file)).map(describeKey));
  await publishOrderKeys(db, 'system/init', keys);
}

/** What signs with the first key of the file, once that is published: before, no device can know it. */
export async function openOrderSigner(
  db: Db,
  { keysFile, lifetimeSeconds }: { keysFile: string; lifetimeSeconds: number },
): Promise<SignOrder> {
  const [privateKey] = await readKeys(keysFile);
  if (!privateKey) throw new Error(`there is no key in ${keysFile}`);
  const { id } = await describeKey(privateKey);
  const published = await findOrderKey(db, id);
  if (!published || published.state === 'RETIRED') {
    throw new Error(`the first key in ${keysFile} is not published: run workers/init.ts first`);
  }
  return createOrderSigner({ privateKey, lifetimeSeconds });
}

async function readKeys(file: string) {
  const pems = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    throw new Error(`${file} is gone: bring it back, or make new keys and have the devices know them`);
  });
  return readOrderKeys(pems);
}

/** Of two that do so at once, one makes it. */
async function makeFile(file: string): Promise<void> {
  await writeFile(file, makeReleaseKey('ES256'), { mode: 0o600, flag: 'wx' }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
}
