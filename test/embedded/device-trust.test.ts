import { hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createRoot } from '../../pki/authority.ts';
import { eventually } from '../support/eventually.ts';
import { openWorkshop, type Updating, type Workshop } from './updating.ts';

let shop: Workshop;
let ours: string;
let others: string;
beforeAll(async () => {
  shop = await openWorkshop();
  ours = shop.fleet.authority.rootPem;
  others = (await createRoot({ name: 'Longhaul root authority 2' })).certificatePem;
}, 60_000);
afterAll(() => shop[Symbol.asyncDispose]());

const orderOf = (version: number, certificatesPem: string) => {
  return { operation: 'update-trust-bundle', version, sha256: hash('sha256', certificatesPem), certificatesPem };
};
const trustedBy = ({ folder }: Updating) => JSON.parse(readFileSync(join(folder, 'trust-bundle.json'), 'utf8'));

test('a device lives by the roots that it is told of, and by no others', async () => {
  const device = await shop.makeDevice();
  const both = await shop.give(device, orderOf(2, ours + others));
  await shop.expectExecution(both, { status: 'SUCCEEDED' });
  expect(trustedBy(device)).toEqual({ version: 2, certificatesPem: ours + others });
  await device.stop();
  device.start();
  await eventually(() => device.connected());

  await shop.expectExecution(await shop.give(device, orderOf(3, others)), { status: 'SUCCEEDED' });
  await device.stop();
  const troubles: Error[] = [];
  device.events.on('trouble', (error) => troubles.push(error));
  device.start();
  await eventually(() => troubles.length > 0);
  expect(troubles[0]?.message).toMatch(/certificate/);
  expect(device.connected()).toBe(false);
});

test.each(['kept', 'trust-kept', 'judged'] as const)(
  'a device whose power fails at "%s" of such an order has acknowledged what is on its disk',
  async (step) => {
    const device = await shop.makeDevice();
    device.cutPower(step);
    const jobId = await shop.give(device, orderOf(2, ours + others));
    await shop.expectExecution(jobId, { status: 'SUCCEEDED' });
    expect(trustedBy(device)).toEqual({ version: 2, certificatesPem: ours + others });
  },
);

test('roots that are others than were meant, none, or older are refused, and those before stay', async () => {
  const device = await shop.makeDevice();
  await shop.expectExecution(await shop.give(device, orderOf(4, ours + others)), { status: 'SUCCEEDED' });
  const refused: [string, object][] = [
    ['WRONG_DIGEST', { ...orderOf(5, others), certificatesPem: ours }],
    ['NO_CERTIFICATES', orderOf(5, 'none')],
    ['OLDER', orderOf(3, others)],
  ];
  for (const [reason, order] of refused) {
    const jobId = await shop.give(device, order);
    await shop.expectExecution(jobId, { status: 'REJECTED', details: { reason: expect.stringContaining(reason) } });
  }
  expect(trustedBy(device)).toEqual({ version: 4, certificatesPem: ours + others });
});
