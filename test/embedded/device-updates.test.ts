import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { executions } from '../../db/rollout-schema.ts';
import { eventually } from '../support/eventually.ts';
import { softwareOf } from './releases.ts';
import { openWorkshop, type Workshop } from './updating.ts';

const phases = ['DOWNLOADING', 'DOWNLOADED', 'INSTALLING', 'REBOOTING', 'VERIFYING'];
let shop: Workshop;
beforeAll(async () => void (shop = await openWorkshop()));
afterAll(() => shop[Symbol.asyncDispose]());

const image = () => randomBytes(100_000);

describe('a simulated device', () => {
  test.each([4, 5] as const)(
    'updates: downloads, installs, boots the new image, and says so phase by phase (MQTT %s)',
    async (protocolVersion) => {
      const device = await shop.makeDevice({ protocolVersion });
      await eventually(async () => expect(await shop.versionOf(device)).toBe('1.0.0'));
      const release = shop.makeRelease(image());
      const booted = once(device.events, 'booted');
      const jobId = await shop.give(device, release.document);
      expect(await booted).toEqual(['2.0.0']);
      await shop.expectExecution(jobId, { status: 'SUCCEEDED', details: { version: '2.0.0' } });
      expect(await shop.versionOf(device)).toBe('2.0.0');
      expect(device.version()).toBe('2.0.0');
      await eventually(() => expect(device.said).toEqual([...phases, 'SUCCEEDED']));
      expect(readFileSync(join(device.folder, 'slots/b/image')).equals(release.bytes)).toBe(true);
    },
  );

  test('updates again and again, into the slot that does not run', async () => {
    const device = await shop.makeDevice();
    for (const [version, slot] of [
      ['2.0.0', 'b'],
      ['3.0.0', 'a'],
      ['4.0.0', 'b'],
    ] as const) {
      const release = shop.makeRelease(image(), { version });
      await shop.expectExecution(await shop.give(device, release.document), { status: 'SUCCEEDED' });
      expect(await shop.versionOf(device)).toBe(version);
      expect(readFileSync(join(device.folder, `slots/${slot}/image`)).equals(release.bytes)).toBe(true);
    }
  });

  test('succeeds at once with what it runs already, and goes back without a download', async () => {
    const device = await shop.makeDevice();
    const second = shop.makeRelease(image());
    const third = shop.makeRelease(image(), { version: '3.0.0' });
    for (const { document } of [second, third, third, second]) {
      await shop.expectExecution(await shop.give(device, document), { status: 'SUCCEEDED' });
    }
    expect(await shop.versionOf(device)).toBe('2.0.0');
    expect(device.said.filter((said) => said === 'DOWNLOADING')).toHaveLength(2);
    expect(shop.artifacts.asked(second)).toHaveLength(1);
    expect(shop.artifacts.asked(third)).toHaveLength(1);
  });

  test('hears of a job that came while it was away', async () => {
    const device = await shop.makeDevice();
    device.goOffline();
    await eventually(() => !device.connected());
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    device.goOnline();
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
  });

  test('does one job after the other', async () => {
    const device = await shop.makeDevice({ behaviour: { slowMs: 50 } });
    const given = [];
    for (const version of ['2.0.0', '3.0.0', '4.0.0']) {
      given.push(await shop.give(device, shop.makeRelease(image(), { version }).document));
    }
    for (const jobId of given) await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    expect(await shop.versionOf(device)).toBe('4.0.0');
    expect(device.said).toEqual([0, 1, 2].flatMap(() => [...phases, 'SUCCEEDED']));
  });

  test('goes on with a download after it was out of reach', async () => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(randomBytes(1_000_000));
    shop.artifacts.intercept(({ path, range }, answer) => {
      if (range !== undefined || !path.includes(release.sha256)) return false;
      answer.writeHead(200, { 'content-length': release.size }).write(release.bytes.subarray(0, 300_000));
      return true;
    });
    const jobId = await shop.give(device, release.document);
    const part = join(device.folder, 'download', `${release.sha256}.part`);
    await eventually(() => existsSync(part) && statSync(part).size > 0);
    device.goOffline();
    await once(device.events, 'disconnected');
    device.goOnline();
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    shop.artifacts.intercept(undefined);
    expect(shop.artifacts.asked(release)[1]?.range).toMatch(/^bytes=[1-9]/);
  });

  test('asks for a fresh address when the one it was given is over', async () => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(image());
    shop.artifacts.intercept(({ path }, answer) => {
      const [first] = shop.artifacts.asked(release);
      if (path !== first?.path) return false;
      answer.writeHead(403).end();
      return true;
    });
    const jobId = await shop.give(device, release.document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    shop.artifacts.intercept(undefined);
    const paths = shop.artifacts.asked(release).map(({ path }) => path);
    expect(paths).toHaveLength(2);
    expect(new Set(paths).size).toBe(2);
  });

  test.each([
    ['the manifest of a stranger', 'UNKNOWN_KEY', { manifest: 'e30.e30.e30' }],
    [
      'another artifact than the manifest',
      'WRONG_ARTIFACT',
      { artifact: { name: '', sha256: 'b'.repeat(64), size: 1, url: 'http://127.0.0.1/' } },
    ],
    [
      'another artifact of the same size',
      'WRONG_ARTIFACT',
      { artifact: { name: '', sha256: 'b'.repeat(64), size: 100_000, url: 'http://127.0.0.1/' } },
    ],
    ['an update without a manifest', 'UNKNOWN_DOCUMENT', { manifest: undefined }],
    ['nothing that it knows', 'UNKNOWN_DOCUMENT', { operation: 'make tea' }],
  ])('rejects %s, and does not begin', async (_, code, change) => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(image());
    const jobId = await shop.give(device, { ...release.document, ...change });
    await shop.expectExecution(jobId, { status: 'REJECTED', startedAt: null });
    expect((await shop.executionOf(jobId))?.details['reason']).toMatch(code);
    expect(shop.artifacts.asked(release)).toEqual([]);
  });

  test.each([
    ['hardware', 'WRONG_HARDWARE', { hardware: ['rev-a'] }],
    ['counter', 'COUNTER_TOO_LOW', { securityCounter: 4 }],
    ['version', 'WRONG_VERSION', { allowedFrom: ['0.9.0'] }],
    ['time', 'EXPIRED', { expires: '2020-01-01T00:00:00Z' }],
  ])('rejects what does not fit its %s', async (_, code, change) => {
    const software = { ...softwareOf(shop.key, shop.orderKey), securityCounter: 5 };
    const device = await shop.makeDevice({ software });
    const { document } = shop.makeRelease(image(), { securityCounter: 5, ...change });
    const jobId = await shop.give(device, document);
    await shop.expectExecution(jobId, { status: 'REJECTED' });
    expect((await shop.executionOf(jobId))?.details['reason']).toMatch(code);
    expect(device.version()).toBe('1.0.0');
  });

  test('fails when what it downloads is not what was signed, and runs what it ran', async () => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(image());
    shop.artifacts.intercept(({ path }, answer) => {
      if (!path.includes(release.sha256)) return false;
      answer.end(randomBytes(release.size));
      return true;
    });
    const jobId = await shop.give(device, release.document);
    await shop.expectExecution(jobId, { status: 'FAILED', details: { phase: 'DOWNLOADING', version: '1.0.0' } });
    shop.artifacts.intercept(undefined);
    expect((await shop.executionOf(jobId))?.details['reason']).toMatch('WRONG_DIGEST');
    await shop.giveAgain(device, jobId, 2);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' }, 2);
  });

  test('does not take what it has rolled past, unless that is signed as a way down', async () => {
    const device = await shop.makeDevice();
    const up = shop.makeRelease(image(), { version: '2.0.0', securityCounter: 2 });
    const down = (downgrade: boolean) => shop.makeRelease(image(), { version: '1.9.0', securityCounter: 1, downgrade });
    await shop.expectExecution(await shop.give(device, up.document), { status: 'SUCCEEDED' });
    await device.stop();
    device.start();
    await shop.expectExecution(await shop.give(device, down(false).document), { status: 'REJECTED' });
    await shop.expectExecution(await shop.give(device, down(true).document), { status: 'SUCCEEDED' });
    await shop.expectExecution(await shop.give(device, down(false).document), { status: 'SUCCEEDED' });
    expect(await shop.versionOf(device)).toBe('1.9.0');
  });

  test('leaves a job that was taken back', async () => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(image());
    let reached = () => {};
    const downloading = new Promise<void>((resolve) => (reached = resolve));
    const { promise: released, resolve: release_ } = Promise.withResolvers<void>();
    shop.artifacts.intercept(({ path }, answer) => {
      if (!path.includes(release.sha256)) return false;
      reached();
      void released.then(() => answer.end(release.bytes));
      return true;
    });
    const jobId = await shop.give(device, release.document);
    await downloading;
    const canceled = { status: 'CANCELED' as const, endedAt: new Date() };
    await shop.db.update(executions).set(canceled).where(eq(executions.jobId, jobId));
    release_();
    await eventually(() => device.said.includes('InvalidStateTransition'));
    shop.artifacts.intercept(undefined);
    const next = await shop.give(device, shop.makeRelease(image(), { version: '3.0.0' }).document);
    await shop.expectExecution(next, { status: 'SUCCEEDED' });
    expect(await shop.versionOf(device)).toBe('3.0.0');
    expect(await shop.executionOf(jobId)).toMatchObject({ status: 'CANCELED' });
  });

  test('gets there although a third of what it says is lost', async () => {
    const device = await shop.makeDevice();
    device.behave({ lossy: 0.3 });
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
  });

  test('does not stay with an image whose trial no job in hand has asked for', async () => {
    const device = await shop.makeDevice();
    for (const version of ['2.0.0', '3.0.0']) {
      const { document } = shop.makeRelease(image(), { version });
      await shop.expectExecution(await shop.give(device, document), { status: 'SUCCEEDED' });
    }
    await device.stop();
    const bootFile = join(device.folder, 'boot.json');
    const armed = { active: 'a', counter: 0, trying: { slot: 'b', update: 'nobody-1', triesLeft: 3 } };
    writeFileSync(bootFile, JSON.stringify(armed));
    const versions: string[] = [];
    device.events.on('booted', (version) => versions.push(version));
    device.start();
    await eventually(() => expect(versions).toEqual(['2.0.0', '3.0.0']));
    const tried = { update: 'nobody-1', failed: expect.stringMatching('UNASKED') };
    expect(JSON.parse(readFileSync(bootFile, 'utf8'))).toEqual({ active: 'a', counter: 0, tried });
    expect(await shop.versionOf(device)).toBe('3.0.0');
  });

  test('keeps its disk to itself', async () => {
    const device = await shop.makeDevice();
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    await device.stop();
    const entries = readdirSync(device.folder, { recursive: true, encoding: 'utf8' });
    expect(entries).toEqual(
      expect.arrayContaining(['boot.json', 'slots/a/image', 'slots/b/image', 'slots/b/label.json']),
    );
    for (const entry of entries.filter((name) => /boot|slots|download/.test(name))) {
      const entryMode = statSync(join(device.folder, entry));
      expect([entry, entryMode.mode & 0o077]).toEqual([entry, 0]);
    }
  });
});
