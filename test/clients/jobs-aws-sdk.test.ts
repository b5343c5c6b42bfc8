import { iotjobs } from 'aws-iot-device-sdk-v2';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jobNotices } from '../../db/rollout-schema.ts';
import { eventually } from '../support/eventually.ts';
import { dial311, dial5, type AwsClient, type Dialler } from './aws-device.ts';
import { jobsV1, jobsV2, type AwsJobs, type Update } from './aws-jobs.ts';
import { openWorkshop, type Workshop } from './workshop.ts';

let workshop: Workshop;
beforeAll(async () => void (workshop = await openWorkshop({ settleMs: 2_000 })), 60_000);
afterAll(() => workshop[Symbol.asyncDispose]());

const { JobStatus } = iotjobs.model;
const to = (status: keyof typeof JobStatus, rest: Update = {}): Update => ({ status: JobStatus[status], ...rest });
const seconds = expect.toSatisfy((at: number) => Math.abs(at - Date.now() / 1_000) < 60);

const clients: [string, Dialler, (client: AwsClient, thing: string) => AwsJobs][] = [
  ['V1 client over MQTT 3.1.1', dial311, jobsV1],
  ['V1 client over MQTT 5', dial5, jobsV1],
  ['V2 client over MQTT 3.1.1', dial311, jobsV2],
  ['V2 client over MQTT 5', dial5, jobsV2],
];

describe.each(clients)('the unmodified SDK, %s', (_, dial, open) => {
  test('finds, starts, reports and ends its jobs, and hears of each change', async () => {
    const { makeDevice, give, rowOf, mqtt } = workshop;
    const device = await makeDevice();
    const first = await give([device], { document: '{"operation":"install","files":[{"n":1}]}' });
    await using client = await dial(mqtt, device);
    const jobs = open(client, device.name);
    const heard = await jobs.listen();
    const pending = await jobs.pending();
    expect(pending.inProgressJobs).toEqual([]);
    expect(pending.queuedJobs).toMatchObject([
      { jobId: first.id, versionNumber: 1, executionNumber: 1, queuedAt: seconds },
    ]);
    expect((await jobs.describe('$next')).execution).toMatchObject({ jobId: first.id, status: 'QUEUED' });
    expect((await jobs.describe(first.id)).execution?.jobDocument).toEqual({ operation: 'install', files: [{ n: 1 }] });

    const { execution } = await jobs.startNext({ step: 'begun' });
    expect(execution).toMatchObject({
      jobId: first.id,
      thingName: device.name,
      status: 'IN_PROGRESS',
      statusDetails: { step: 'begun' },
      versionNumber: 2,
      startedAt: seconds,
      jobDocument: { operation: 'install', files: [{ n: 1 }] },
    });
    const progress = to('IN_PROGRESS', {
      expectedVersion: 2,
      includeJobExecutionState: true,
      includeJobDocument: true,
    });
    expect(await jobs.update(first.id, { ...progress, statusDetails: { step: 'on it' } })).toMatchObject({
      executionState: { status: 'IN_PROGRESS', statusDetails: { step: 'on it' }, versionNumber: 3 },
      jobDocument: { operation: 'install' },
      timestamp: seconds,
    });
    const second = await give([device]);
    await eventually(() => heard.changed.some(({ jobs: all }) => all?.['QUEUED']?.[0]?.jobId === second.id));
    expect(await rowOf(first, device)).toMatchObject({ status: 'IN_PROGRESS', version: 3 });

    await jobs.update(first.id, to('SUCCEEDED', { expectedVersion: 3 }));
    expect(await rowOf(first, device)).toMatchObject({ status: 'SUCCEEDED', version: 4, details: { step: 'on it' } });
    await eventually(() => heard.next.at(-1)?.execution?.jobId === second.id);
    expect(heard.next.at(-1)?.execution?.jobDocument).toEqual({ operation: 'test' });
    await jobs.update(second.id, to('REJECTED'));
    await eventually(() => heard.next.length > 0 && heard.next.at(-1)?.execution === undefined);
    await eventually(() => Object.keys(heard.changed.at(-1)?.jobs ?? { none: [] }).length === 0);
    expect((await jobs.startNext()).execution).toBeUndefined();
    expect(await rowOf(second, device)).toMatchObject({ status: 'REJECTED' });
    // What it asked for by itself it was not told once more.
    expect(heard.next.map((event) => event.execution?.jobId)).toEqual([second.id, undefined]);
  });

  test('is told by name why it is refused, and where the execution stands', async () => {
    const { makeDevice, give, mqtt } = workshop;
    const device = await makeDevice();
    const job = await give([device]);
    await using client = await dial(mqtt, device);
    const jobs = open(client, device.name);
    const state = (status: string, versionNumber: number) => ({ executionState: { status, versionNumber } });
    const stale = jobs.update(job.id, to('IN_PROGRESS', { expectedVersion: 9 }));
    await expect(stale).rejects.toMatchObject({ code: 'VersionMismatch', ...state('QUEUED', 1) });
    await jobs.update(job.id, to('FAILED'));
    const late = jobs.update(job.id, to('SUCCEEDED'));
    await expect(late).rejects.toMatchObject({ code: 'InvalidStateTransition', ...state('FAILED', 2) });
    await expect(jobs.describe(job.id)).rejects.toMatchObject({ code: 'TerminalStateReached', timestamp: seconds });
    await expect(jobs.describe('none')).rejects.toMatchObject({ code: 'ResourceNotFound' });
    await expect(jobs.update(job.id, to('QUEUED'))).rejects.toMatchObject({ code: 'InvalidRequest' });
  });

  test('sees nothing of what another device does with the same job', async () => {
    const { makeDevice, give, rowOf, mqtt } = workshop;
    const [one, other] = [await makeDevice(), await makeDevice()];
    await using first = await dial(mqtt, one);
    await using second = await dial(mqtt, other);
    const [mine, theirs] = [open(first, one.name), open(second, other.name)];
    await mine.listen();
    const heard = await theirs.listen();
    const job = await give([one, other]);
    await eventually(() => heard.next.length === 1);
    const before = second.heard.length;
    await mine.update(job.id, to('IN_PROGRESS', { statusDetails: { of: 'one' } }));
    await mine.update(job.id, to('SUCCEEDED'));
    expect((await theirs.describe(job.id)).execution).toMatchObject({ status: 'QUEUED', versionNumber: 1 });
    expect(second.heard.slice(before).filter(({ topic }) => !topic.includes('/get/'))).toEqual([]);
    expect(await rowOf(job, other)).toMatchObject({ status: 'QUEUED' });
    await expect(second.subscribe(`$aws/things/${one.name}/jobs/notify`)).rejects.toThrow('not granted');
  });
});

test.each([
  ['MQTT 3.1.1', dial311],
  ['MQTT 5', dial5],
])('a device that was away over %s finds its job by asking, and is not told of it besides', async (_, dial) => {
  const { makeDevice, give, mqtt, fleet } = workshop;
  const device = await makeDevice();
  const filter = `$aws/things/${device.name}/jobs/notify-next`;
  {
    await using client = await dial(mqtt, device);
    await client.subscribe(filter);
  }
  const job = await give([device]);
  await using client = await dial(mqtt, device);
  expect(client.sessionPresent).toBe(true);
  await client.publish(`$aws/things/${device.name}/jobs/$next/get`, '');
  const notices = () => fleet.db.select().from(jobNotices).where(eq(jobNotices.deviceId, device.deviceId));
  await eventually(async () => (await notices()).length === 0);
  expect(client.heard.map(({ topic }) => topic)).toEqual([`$aws/things/${device.name}/jobs/$next/get/accepted`]);
  expect(JSON.parse(client.heard[0]?.text ?? '')).toMatchObject({ execution: { jobId: job.id } });
});
