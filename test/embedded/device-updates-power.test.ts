import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { executions } from '../../db/rollout-schema.ts';
import { powerSteps, type PowerStep } from '../../embedded/device-power.ts';
import { eventually } from '../support/eventually.ts';
import { openWorkshop, type Updating, type Workshop } from './updating.ts';

let shop: Workshop;
beforeAll(async () => void (shop = await openWorkshop()));
afterAll(() => shop[Symbol.asyncDispose]());

const ofSteps: PowerStep[] = ['step-done', 'trust-kept'];
const ofRotation = powerSteps.filter((step) => step === 'key-kept' || step.startsWith('certificate-'));
const ofOthers = [...ofSteps, ...ofRotation];
const ofBad: PowerStep[] = ['given-up', 'fallen-back', 'cleared'];
const ofGood: PowerStep[] = ['confirmed'];
const stepsOfGood = powerSteps.filter((step) => ![...ofOthers, ...ofBad].includes(step));
const stepsOfBad = powerSteps.filter((step) => ![...ofOthers, ...ofGood].includes(step));

/** The power fails there once, and the job has nevertheless ended when this resolves. */
async function cutOnce(device: Updating, step: PowerStep, document: object): Promise<string> {
  const cuts: unknown[] = [];
  device.events.on('powerCut', (at) => cuts.push(at));
  device.cutPower(step);
  const jobId = await shop.give(device, document);
  await eventually(() => cuts.length === 1, { withinMs: 20_000 });
  await eventually(async () => (await shop.executionOf(jobId))?.endedAt != null, { withinMs: 20_000 });
  await eventually(() => !existsSync(join(device.folder, 'job.json')));
  expect(cuts).toEqual([step]);
  expect(await shop.db.select().from(executions).where(eq(executions.jobId, jobId))).toHaveLength(1);
  // What it says again after a restart is the same request, and is answered as it was the first time.
  expect(device.said.filter((said) => /[a-z]/.test(said))).toEqual([]);
  return jobId;
}

/** Nothing of the update is left lying about. */
function expectTidy({ folder }: Updating, slots: string[]): void {
  const left = readdirSync(folder).filter((name) => name.endsWith('.new'));
  expect({ left, slots: readdirSync(join(folder, 'slots')) }).toEqual({ left: [], slots });
  expect(existsSync(join(folder, 'download'))).toBe(false);
}

describe('an update over a power cut', () => {
  test.each(stepsOfGood)('at "%s" ends well', async (step) => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(randomBytes(300_000));
    const jobId = await cutOnce(device, step, release.document);
    expect(await shop.executionOf(jobId)).toMatchObject({ status: 'SUCCEEDED', details: { version: '2.0.0' } });
    await eventually(async () => expect(await shop.versionOf(device)).toBe('2.0.0'));
    await eventually(() => device.version() === '2.0.0');
    expect(readFileSync(join(device.folder, 'slots/b/image')).equals(release.bytes)).toBe(true);
    expectTidy(device, ['a', 'b']);

    const third = shop.makeRelease(randomBytes(1_000), { version: '3.0.0' });
    await shop.expectExecution(await shop.give(device, third.document), { status: 'SUCCEEDED' });
    expect(await shop.versionOf(device)).toBe('3.0.0');
  });

  test.each(stepsOfBad)('at "%s" of a bad image goes back', async (step) => {
    const device = await shop.makeDevice({ behaviour: { updates: 'bad' } });
    const jobId = await cutOnce(device, step, shop.makeRelease(randomBytes(300_000)).document);
    const details = { version: '1.0.0', reason: expect.stringMatching('UNHEALTHY') };
    expect(await shop.executionOf(jobId)).toMatchObject({ status: 'FAILED', details });
    await eventually(async () => expect(await shop.versionOf(device)).toBe('1.0.0'));
    await eventually(() => device.version() === '1.0.0');
    expectTidy(device, ['a']);
  });

  test('every time that it tries the new image goes back to the old one', async () => {
    const device = await shop.makeDevice();
    device.events.on('powerCut', () => device.cutPower('up'));
    device.cutPower('up');
    const jobId = await shop.give(device, shop.makeRelease(randomBytes(1_000)).document);
    await shop.expectExecution(jobId, { status: 'FAILED', details: { reason: expect.stringMatching('BOOT_FAILED') } });
    expect(await shop.versionOf(device)).toBe('1.0.0');
    await eventually(() => expect(device.said.slice(-2)).toEqual(['ROLLING_BACK', 'FAILED']));
  });

  test('at any moments, one after the other, leaves a device that runs what it says', async () => {
    const devices = await Promise.all(Array.from({ length: 8 }, () => shop.makeDevice({ behaviour: { slowMs: 20 } })));
    const { document } = shop.makeRelease(randomBytes(300_000));
    await Promise.all(
      devices.map(async (device) => {
        const jobId = await shop.give(device, document);
        for (let cuts = 0; cuts < 10; cuts += 1) {
          const moment = Date.now() + Math.random() * 500;
          await eventually(() => Date.now() > moment);
          device.cutPower();
        }
        await eventually(async () => (await shop.executionOf(jobId))?.endedAt != null, { withinMs: 40_000 });
        const { status } = (await shop.executionOf(jobId)) ?? {};
        const version = status === 'SUCCEEDED' ? '2.0.0' : '1.0.0';
        await eventually(async () => expect(await shop.versionOf(device)).toBe(version));
        await eventually(() => expect(device.version()).toBe(version));
      }),
    );
  }, 60_000);
});
