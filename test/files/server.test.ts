import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { devices } from '../../db/schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { fetchAll, giveJob, makeDownloadOf, open, startTestFiles, storeContent } from '../support/files.ts';
import type { FilesRig } from '../support/files.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';

/** More than every buffer on the way holds. */
const large = Buffer.alloc(64 * 1024 * 1024, 'longhaul');

let database: TestDatabase;
let fleet: Fleet;
let files: FilesRig;
let sha256: string;

beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  files = await startTestFiles({ db: database.db });
  sha256 = await storeContent(files.store, large);
});
afterAll(async () => {
  await files[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const makeDownload = () => makeDownloadOf(fleet, files, sha256);

describe('a download under way', () => {
  test('is cut off when the device is blocked, and another goes on', async () => {
    const [mine, other] = await Promise.all([makeDownload(), makeDownload()]);
    const begin = async ({ address }: typeof mine) => {
      const { response } = await open(address);
      response.pause();
      response.on('error', () => {});
      const { promise: ended, resolve } = Promise.withResolvers<boolean>();
      response.once('close', () => resolve(response.complete));
      return { response, ended };
    };
    const [cut, kept] = [await begin(mine), await begin(other)];
    await files.downloads.review();
    await database.db.update(devices).set({ state: 'BLOCKED' }).where(eq(devices.id, mine.device.deviceId));
    await files.downloads.review();
    cut.response.resume();
    expect(await cut.ended).toBe(false);
    kept.response.resume();
    expect(await kept.ended).toBe(true);
    expect(await files.count('longhaul_files_cut_total')).toBe(1);
  });

  test('ends when its client goes away, and the store is read no further', async () => {
    const { request } = await open((await makeDownload()).address);
    request.on('error', () => {}).destroy();
    await eventually(async () => (await files.count('longhaul_files_downloads')) === 0);
  });

  test('that takes nothing for long is cut off', async () => {
    await using impatient = await startTestFiles({ db: database.db, store: files.store, idleMs: 300 });
    const { addressed } = await makeDownload();
    const { response } = await open(impatient.addresses.sign(addressed));
    response.pause();
    await eventually(async () => (await impatient.count('longhaul_files_downloads')) === 0);
    response.on('error', () => {}).resume();
  });

  test('is one of so many at once, and one more is told to come back', async () => {
    await using small = await startTestFiles({ db: database.db, store: files.store, downloadsMax: 1 });
    const { addressed } = await makeDownload();
    const address = small.addresses.sign(addressed);
    const first = await open(address);
    first.response.pause();
    const second = await fetchAll(address);
    expect(second).toMatchObject({ status: 503, problem: 'busy', headers: { 'retry-after': '2' } });
    first.request.on('error', () => {}).destroy();
    first.response.on('error', () => {});
    await eventually(async () => expect(await fetchAll(address, { method: 'HEAD' })).toMatchObject({ status: 200 }));
  });

  test('ends before the server does, when it does so in time', async () => {
    const own = await startTestFiles({ db: database.db, store: files.store });
    const { addressed } = await makeDownload();
    const address = own.addresses.sign(addressed);
    const { response } = await open(address);
    response.pause();
    const drained = own.drain(20_000);
    await expect(fetchAll(address)).rejects.toThrow('ECONNREFUSED');
    let bytes = 0;
    for await (const chunk of response) bytes += (chunk as Buffer).length;
    expect(bytes).toBe(large.length);
    await drained;
  });
});

describe('while the database is away', () => {
  test('a download is told to come back', async () => {
    const own = await makeDatabase();
    const ownFleet = await createFleet(own.db);
    const { deviceId } = await ownFleet.makeDevice();
    await using rig = await startTestFiles({ db: own.db, store: files.store });
    const jobId = await giveJob(own.db, deviceId);
    await own[Symbol.asyncDispose]();
    const answer = await fetchAll(rig.addresses.sign({ sha256, deviceId, jobId }));
    expect(answer).toMatchObject({ status: 503, problem: 'unavailable', headers: { 'retry-after': '2' } });
  });
});

describe('what was found out about a device', () => {
  test('is believed for as long as it is said to be, and asked again after it', async () => {
    await using rig = await startTestFiles({ db: database.db, store: files.store, trustMs: 3_000 });
    const { device, addressed } = await makeDownload();
    const address = rig.addresses.sign(addressed);
    const head = async () => (await fetchAll(address, { method: 'HEAD' })).status;
    expect(await head()).toBe(200);
    await database.db.update(devices).set({ state: 'BLOCKED' }).where(eq(devices.id, device.deviceId));
    expect(await head()).toBe(200);
    await eventually(async () => expect(await head()).toBe(403));
  });
});

test('the server says that it lives, and what it misses', async () => {
  const missing: string[] = [];
  await using rig = await startTestFiles({ db: database.db, missing: async () => missing });
  const base = `http://127.0.0.1:${rig.port}`;
  expect(await fetchAll(`${base}/healthz`)).toMatchObject({ status: 200 });
  expect(await fetchAll(`${base}/readyz`)).toMatchObject({ status: 200 });
  missing.push('store');
  expect(String((await fetchAll(`${base}/readyz`)).body)).toBe('{"ready":false,"missing":["store"]}');
});
