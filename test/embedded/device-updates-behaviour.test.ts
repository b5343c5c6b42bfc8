import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually } from '../support/eventually.ts';
import { openWorkshop, type Workshop } from './updating.ts';

const phases = ['DOWNLOADING', 'DOWNLOADED', 'INSTALLING', 'REBOOTING', 'VERIFYING'];
let shop: Workshop;
beforeAll(async () => void (shop = await openWorkshop()));
afterAll(() => shop[Symbol.asyncDispose]());

const image = () => randomBytes(10_000);

describe('a device told to be', () => {
  test('bad goes back by itself, and says so', async () => {
    const device = await shop.makeDevice({ behaviour: { updates: 'bad' } });
    const versions: string[] = [];
    device.events.on('booted', (version) => versions.push(version));
    const release = shop.makeRelease(image());
    const jobId = await shop.give(device, release.document);
    const details = { phase: 'ROLLING_BACK', version: '1.0.0', reason: expect.stringMatching('UNHEALTHY') };
    await shop.expectExecution(jobId, { status: 'FAILED', details });
    await eventually(() => expect(device.said).toEqual([...phases, 'ROLLING_BACK', 'FAILED']));
    expect(versions).toEqual(['2.0.0', '1.0.0']);
    expect(await shop.versionOf(device)).toBe('1.0.0');
    expect(existsSync(join(device.folder, 'slots/b'))).toBe(false);

    device.behave({ updates: 'good' });
    await shop.giveAgain(device, jobId, 2);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' }, 2);
    expect(await shop.versionOf(device)).toBe('2.0.0');
  });

  test('good goes back from an image that is bad on every device', async () => {
    const device = await shop.makeDevice();
    const { document } = shop.makeRelease(Buffer.from('unhealthy\n'));
    await shop.expectExecution(await shop.give(device, document), { status: 'FAILED' });
    expect(await shop.versionOf(device)).toBe('1.0.0');
  });

  test('silent is there, and never answers its jobs', async () => {
    const device = await shop.makeDevice({ behaviour: { updates: 'silent' } });
    await eventually(async () => expect(await shop.versionOf(device)).toBe('1.0.0'));
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    const reboot = once(device.events, 'connected');
    await device.stop();
    device.start();
    await reboot;
    const command = await shop.give(device, { operation: 'nothing known' });
    const later = await shop.makeDevice();
    await shop.expectExecution(await shop.give(later, shop.makeRelease(image()).document), { status: 'SUCCEEDED' });
    for (const id of [jobId, command])
      expect(await shop.executionOf(id)).toMatchObject({ status: 'QUEUED', version: 1 });
    expect(device.said).toEqual([]);
  });

  test('lying says that it has updated, and says what it runs', async () => {
    const device = await shop.makeDevice({ behaviour: { updates: 'lying' } });
    const release = shop.makeRelease(image());
    const jobId = await shop.give(device, release.document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED', details: { version: '2.0.0' } });
    await eventually(() => expect(device.said).toEqual([...phases, 'SUCCEEDED']));
    expect(await shop.versionOf(device)).toBe('1.0.0');
    expect(device.version()).toBe('1.0.0');
    expect(shop.artifacts.asked(release)).toEqual([]);
  });

  test('flapping succeeds, and then runs the old image again', async () => {
    const device = await shop.makeDevice({ behaviour: { updates: 'flapping', flapsAfterMs: 300 } });
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    expect(await shop.versionOf(device)).toBe('2.0.0');
    await eventually(async () => expect(await shop.versionOf(device)).toBe('1.0.0'));
    expect(device.version()).toBe('1.0.0');
    expect(await shop.executionOf(jobId)).toMatchObject({ status: 'SUCCEEDED' });
  });

  test('refusing rejects what it is given', async () => {
    const device = await shop.makeDevice({ behaviour: { updates: 'refusing' } });
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    const details = { reason: expect.stringMatching('TOLD_TO_REFUSE') };
    await shop.expectExecution(jobId, { status: 'REJECTED', startedAt: null, details });
    expect(await shop.versionOf(device)).toBe('1.0.0');
  });

  test('slow gets there later', async () => {
    const device = await shop.makeDevice({ behaviour: { slowMs: 300 } });
    const began = performance.now();
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    expect(performance.now() - began).toBeGreaterThan(900);
  });
});
