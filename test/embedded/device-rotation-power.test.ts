import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { and, eq, ne } from 'drizzle-orm';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { beginOf } from '../../db/rotation-beginnings.ts';
import { certificates } from '../../db/schema.ts';
import { powerSteps, type PowerStep } from '../../embedded/device-power.ts';
import { rotateCertificate, rotateCertificateId } from '../../workflows/rotate-certificate.ts';
import { openClient, runWorker } from '../gateway/temporal.ts';
import { eventually } from '../support/eventually.ts';
import { openWorkshop, type Updating, type Workshop } from './updating.ts';

const rig = new AsyncDisposableStack();
let shop: Workshop;
let temporal: ReturnType<typeof openClient>;
beforeAll(async () => {
  temporal = rig.use(openClient(inject('temporal')));
  shop = rig.use(await openWorkshop(async () => ({ temporal })));
  const { db, fleet, wire } = shop;
  rig.use(await runWorker(inject('temporal'), temporal.taskQueue, { db, authority: fleet.authority, wire }));
}, 60_000);
afterAll(() => rig.disposeAsync());

/** Ordered by an operator, without a grace. */
async function order(device: Updating) {
  const [begun] = await beginOf(shop.db, { deviceId: device.id, reason: 'requested', askedBy: 'api-key/test' });
  const { rotationId = '', device: name = '', deviceId = '' } = begun ?? {};
  return temporal.client.workflow.start(rotateCertificate, {
    workflowId: rotateCertificateId(name),
    taskQueue: temporal.taskQueue,
    args: [{ rotationId, deviceId, device: name, limits: { graceMs: 0 } }],
  });
}

const livingOf = ({ id }: Updating) =>
  shop.db
    .select()
    .from(certificates)
    .where(and(eq(certificates.deviceId, id), ne(certificates.state, 'REVOKED')));

const steps: PowerStep[] = powerSteps.filter((step) => step === 'key-kept' || step.startsWith('certificate-'));

test.each([...steps, 'kept', 'judged'] as const)(
  'a device whose power fails at "%s" of a rotation ends with one certificate, whose key is its own, and can use it',
  async (step) => {
    const device = await shop.makeDevice();
    const before = readFileSync(join(device.folder, 'private-key.pem'), 'utf8');
    const cuts: unknown[] = [];
    const verdicts: unknown[] = [];
    device.events.on('powerCut', (at) => {
      cuts.push(at);
      if (at === 'judged')
        verdicts.push(JSON.parse(readFileSync(join(device.folder, 'job.json'), 'utf8')).verdict.status);
    });
    device.cutPower(step);
    const workflow = await order(device);
    expect(await workflow.result()).toBe('ROTATED');
    await eventually(() => !existsSync(join(device.folder, 'job.json')), { withinMs: 20_000 });
    expect(cuts).toEqual([step]);
    expect(verdicts).toEqual(step === 'judged' ? ['SUCCEEDED'] : []);
    const [living, ...others] = await livingOf(device);
    expect(others).toEqual([]);
    expect(
      readdirSync(device.folder)
        .filter((name) => name.endsWith('.pem'))
        .toSorted(),
    ).toEqual(['certificate-1.pem', 'private-key-1.pem']);
    expect(readFileSync(join(device.folder, 'private-key-1.pem'), 'utf8')).not.toBe(before);
    expect(JSON.parse(readFileSync(join(device.folder, 'device.json'), 'utf8'))).toMatchObject({
      generation: 1,
      certificateId: living?.id,
    });
    await device.stop();
    device.start();
    await eventually(() => device.connected(), { withinMs: 20_000 });
  },
);

test('a device that the fleet refuses goes on with the certificate that it has', async () => {
  const device = await shop.makeDevice();
  const jobId = await shop.give(device, { operation: 'rotate-certificate', certificateId: 'unknown' });
  await shop.expectExecution(jobId, { status: 'FAILED', details: { reason: expect.stringMatching('RotationNotDue') } });
  expect(
    readdirSync(device.folder)
      .filter((name) => name.endsWith('.pem'))
      .toSorted(),
  ).toEqual(['certificate.pem', 'private-key.pem']);
  expect(device.connected()).toBe(true);
});
