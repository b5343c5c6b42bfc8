import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createOrderSigner, type Order } from '../../pki/orders.ts';
import { makeReleaseKey, softwareOf } from './releases.ts';
import { openWorkshop, type Updating, type Workshop } from './updating.ts';

let shop: Workshop;
beforeAll(async () => void (shop = await openWorkshop()));
afterEach(() => shop.turnOrders(0));
afterAll(() => shop[Symbol.asyncDispose]());

const hourMs = 3_600_000;
const image = () => randomBytes(100_000);
const digestOf = ({ manifest }: { manifest: string }) => createHash('sha256').update(manifest).digest('hex');

/** An order to this device, good but for the change. */
async function orderTo(device: Updating, job: string, document: object, change: Partial<Order> = {}) {
  const { privateKey } = shop.orderKey;
  const signOrder = await createOrderSigner({ privateKey, lifetimeSeconds: 3_600 });
  // Every document of a release has its manifest.
  const manifest = digestOf(document as { manifest: string });
  return signOrder({ device: device.name() ?? '', job, execution: 1, manifest, ...change });
}

const reasonOf = async (jobId: string, attempt = 1) => (await shop.executionOf(jobId, attempt))?.details['reason'];

describe('a simulated device', () => {
  test('does not begin without an order to itself, and says what is wrong with the one that it got', async () => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(image());
    const other = makeReleaseKey();
    const { document } = release;
    const forge = { device: 'pump', job: '', execution: 1, manifest: '', issuedAt: 0, expiresAt: 2 ** 40 };
    const wrong: [string, (jobId: string) => unknown][] = [
      ['MISSING_ORDER', () => undefined],
      ['MALFORMED_ORDER', () => 'order'],
      ['UNKNOWN_ORDER_KEY', () => other.sign(forge, { typ: 'ota-order+jws' })],
      ['BAD_ORDER_SIGNATURE', () => other.sign(forge, { typ: 'ota-order+jws', kid: shop.orderKey.kid })],
      ['ORDER_FOR_OTHER_DEVICE', (jobId) => orderTo(device, jobId, document, { device: 'another' })],
      ['ORDER_FOR_OTHER_JOB', (jobId) => orderTo(device, jobId, document, { job: 'another' })],
      ['ORDER_FOR_OTHER_ATTEMPT', (jobId) => orderTo(device, jobId, document, { execution: 2 })],
      ['ORDER_FOR_OTHER_MANIFEST', (jobId) => orderTo(device, jobId, document, { manifest: 'ab'.repeat(32) })],
    ];
    for (const [code, make] of wrong) {
      const jobId = await shop.give(device, async (id) => ({ ...document, order: await make(id) }));
      await shop.expectExecution(jobId, { status: 'REJECTED', startedAt: null });
      expect(await reasonOf(jobId)).toMatch(new RegExp(`^${code}: `));
    }
    expect(shop.artifacts.asked(release)).toEqual([]);
    const jobId = await shop.give(device, async (id) => ({ ...document, order: await orderTo(device, id, document) }));
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
  });

  test('takes nothing at all when it knows no order key', async () => {
    const software = { ...softwareOf(shop.key, shop.orderKey), orderKeys: [] };
    const device = await shop.makeDevice({ software });
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'REJECTED', startedAt: null });
    expect(await reasonOf(jobId)).toMatch('UNKNOWN_ORDER_KEY');
  });

  test('takes the orders of the next key as soon as it knows both', async () => {
    const old = makeReleaseKey().publicKeyPem;
    const software = { ...softwareOf(shop.key, shop.orderKey), orderKeys: [old, shop.orderKey.publicKeyPem] };
    const device = await shop.makeDevice({ software });
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
  });

  test('is not led astray by its clock while that is off by minutes, and names both times when it is by more', async () => {
    for (const clockAheadMs of [hourMs, -hourMs / 10]) {
      const device = await shop.makeDevice({ behaviour: { clockAheadMs } });
      const jobId = await shop.give(device, shop.makeRelease(image()).document);
      await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    }
    for (const [clockAheadMs, code] of [
      [2 * hourMs, 'ORDER_EXPIRED'],
      [-hourMs, 'ORDER_NOT_YET'],
    ] as const) {
      const device = await shop.makeDevice({ behaviour: { clockAheadMs } });
      const jobId = await shop.give(device, shop.makeRelease(image()).document);
      await shop.expectExecution(jobId, { status: 'REJECTED', startedAt: null });
      expect(await reasonOf(jobId)).toMatch(new RegExp(`^${code}: .*Z, and the clock says .*Z$`));
    }
  });

  test('does not take the order of an attempt that failed for the next one', async () => {
    const device = await shop.makeDevice({ behaviour: { updates: 'bad' } });
    const { document } = shop.makeRelease(image());
    const jobId = await shop.give(device, async (id) => ({ ...document, order: await orderTo(device, id, document) }));
    await shop.expectExecution(jobId, { status: 'FAILED' });
    device.behave({ updates: 'good' });
    await shop.giveAgain(device, jobId, 2);
    await shop.expectExecution(jobId, { status: 'REJECTED' }, 2);
    expect(await reasonOf(jobId, 2)).toMatch('ORDER_FOR_OTHER_ATTEMPT');
  });

  test('takes the next attempt by an order of its own', async () => {
    const device = await shop.makeDevice({ behaviour: { updates: 'bad' } });
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'FAILED' });
    device.behave({ updates: 'good' });
    await shop.giveAgain(device, jobId, 2);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' }, 2);
  });

  test.each(['kept', 'downloading', 'downloaded', 'erased', 'installed'] as const)(
    'whose power was cut at "%s" goes on by a new order when the old one is over',
    async (step) => {
      const device = await shop.makeDevice();
      device.events.once('powerCut', () => {
        device.behave({ clockAheadMs: 2 * hourMs });
        shop.turnOrders(2 * hourMs);
      });
      device.cutPower(step);
      const release = shop.makeRelease(randomBytes(1_000_000));
      const jobId = await shop.give(device, release.document);
      await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
      expect(readFileSync(join(device.folder, 'slots/b/image')).equals(release.bytes)).toBe(true);
    },
  );

  test('whose power was cut does not go on by what it has kept', async () => {
    const device = await shop.makeDevice();
    device.events.once('powerCut', () => device.behave({ clockAheadMs: 2 * hourMs }));
    device.cutPower('installed');
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'REJECTED' });
    expect(await reasonOf(jobId)).toMatch('ORDER_EXPIRED');
    expect(device.version()).toBe('1.0.0');
  });

  test('that runs the new image keeps it whatever became of its order', async () => {
    const device = await shop.makeDevice();
    device.events.once('powerCut', () => device.behave({ clockAheadMs: 2 * hourMs }));
    device.cutPower('up');
    const jobId = await shop.give(device, shop.makeRelease(image()).document);
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    expect(await shop.versionOf(device)).toBe('2.0.0');
  });

  test('that asks for another address gets another order with it, and goes on by none that is wrong', async () => {
    const device = await shop.makeDevice();
    const release = shop.makeRelease(image());
    shop.artifacts.intercept(({ path }, answer) => {
      if (!path.includes(release.sha256)) return false;
      device.behave({ clockAheadMs: 2 * hourMs });
      answer.writeHead(403).end();
      return true;
    });
    const jobId = await shop.give(device, release.document);
    await shop.expectExecution(jobId, { status: 'REJECTED' });
    shop.artifacts.intercept(undefined);
    expect(await reasonOf(jobId)).toMatch('ORDER_EXPIRED');
  });
});
