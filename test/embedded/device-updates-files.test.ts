import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTestFiles, storeContent, type FilesRig } from '../support/files.ts';
import { openWorkshop, type Workshop } from './updating.ts';

const lifetimeSeconds = 1;
let shop: Workshop;
let files: FilesRig;
/** Addresses that the gateway has given away. */
let signed = 0;
beforeAll(async () => {
  shop = await openWorkshop(async ({ db, server, authority }) => {
    const tls = { ...server, authoritiesPem: [authority.rootPem, authority.certificatePem] };
    files = await startTestFiles({ db, tls, lifetimeSeconds });
    return {
      signAddress(addressed) {
        signed += 1;
        return files.addresses.sign(addressed);
      },
    };
  });
});
afterAll(async () => {
  await shop[Symbol.asyncDispose]();
  await files[Symbol.asyncDispose]();
});

async function makeStoredRelease() {
  const release = shop.makeRelease(randomBytes(1_000_000));
  await storeContent(files.store, release.bytes);
  return release;
}

describe('from the server of files, over TLS, a simulated device', () => {
  test('updates by the address that its job gives it', async () => {
    const device = await shop.makeDevice();
    const release = await makeStoredRelease();
    await shop.expectExecution(await shop.give(device, release.document), { status: 'SUCCEEDED' });
    expect(readFileSync(join(device.folder, 'slots/b/image')).equals(release.bytes)).toBe(true);
    expect(shop.artifacts.asked(release)).toEqual([]);
  });

  test('updates although its address was over before it came to use it', async () => {
    const device = await shop.makeDevice({ behaviour: { slowMs: lifetimeSeconds * 1_000 + 100 } });
    const release = await makeStoredRelease();
    const downloading = once(device.events, 'job').then(() => signed);
    await shop.expectExecution(await shop.give(device, release.document), { status: 'SUCCEEDED' });
    expect(signed).toBeGreaterThan(await downloading);
  });

  test('goes on with the rest after a power cut', async () => {
    const device = await shop.makeDevice();
    const release = await makeStoredRelease();
    device.cutPower('downloading');
    const cut = once(device.events, 'powerCut');
    const jobId = await shop.give(device, release.document);
    await cut;
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    expect(readFileSync(join(device.folder, 'slots/b/image')).equals(release.bytes)).toBe(true);
  });
});
