import type { IPublishPacket } from 'mqtt-packet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually } from '../support/eventually.ts';
import type { RawClient } from '../support/raw-mqtt.ts';
import { openWorkshop, type Workshop } from './workshop.ts';

let workshop: Workshop;
beforeAll(async () => void (workshop = await openWorkshop({ settleMs: 100 })), 60_000);
afterAll(() => workshop[Symbol.asyncDispose]());

type Device = Awaited<ReturnType<Workshop['makeDevice']>>;

/** A client that sends packets and nothing else: it never subscribes unless it is told to. */
async function arrive(device: Device, protocol: 4 | 5, clientId = device.clientId) {
  const client = await workshop.gateway.dial(device, { protocol });
  expect(await client.connack({ clientId })).toMatchObject(protocol === 5 ? { reasonCode: 0 } : { returnCode: 0 });
  let messageId = 0;
  const publish = (path: string, payload: string | Buffer, dup = false) => {
    if (!dup) messageId += 1;
    const topic = `$aws/things/${device.name}/jobs/${path}`;
    client.send({ cmd: 'publish', topic, payload, qos: 1, dup, retain: false, messageId });
  };
  return {
    client,
    publish,
    subscribe: async (path: string) => {
      const subscriptions = [{ topic: `$aws/things/${device.name}/jobs/${path}`, qos: 1 as const }];
      client.send({ cmd: 'subscribe', messageId: (messageId += 1), subscriptions });
      await client.next('suback');
    },
    /** Publishes, and gives the one answer; everything that came before its acknowledgement was read. */
    ask: async (path: string, payload: string | Buffer) => {
      publish(path, payload);
      const answer = await client.next('publish');
      await client.next('puback');
      if (!answer) throw new Error('the connection ended before the answer');
      return read(answer);
    },
  };
}

const read = ({ topic, payload }: IPublishPacket) => ({
  path: topic.split('/').slice(4).join('/'),
  body: JSON.parse(payload.toString()) as { execution?: { jobId: string }; code?: string; executionState?: object },
});
const publishesTo = ({ received }: RawClient) => received.filter(({ cmd }) => cmd === 'publish');

describe.each([4, 5] as const)('a client that never subscribes, MQTT protocol %i', (protocol) => {
  test('has every answer, with the topic’s own segment, once', async () => {
    const { makeDevice, give, rowOf } = workshop;
    const device = await makeDevice();
    const { ask, client } = await arrive(device, protocol);
    expect(await ask('$next/get', '')).toMatchObject({
      path: '$next/get/accepted',
      body: { timestamp: expect.any(Number) },
    });
    const job = await give([device]);
    const execution = { jobId: job.id };
    expect(await ask('$next/get', '')).toMatchObject({ path: '$next/get/accepted', body: { execution } });
    expect(await ask('$next/get', '{"clientToken":"t"}\0')).toMatchObject({ body: { execution, clientToken: 't' } });
    expect(await ask('get', '')).toMatchObject({ path: 'get/accepted', body: { queuedJobs: [execution] } });
    expect(await ask('start-next', '{}')).toMatchObject({ path: 'start-next/accepted', body: { execution } });
    expect(await ask(`${job.id}/get`, '')).toMatchObject({ path: `${job.id}/get/accepted`, body: { execution } });
    const stale = await ask(`${job.id}/update`, '{"status":"IN_PROGRESS","expectedVersion":"1"}');
    expect(stale).toMatchObject({ path: `${job.id}/update/rejected`, body: { code: 'VersionMismatch' } });
    const done = await ask(`${job.id}/update`, '{"status":"SUCCEEDED","expectedVersion":"2"}');
    expect(done).toMatchObject({ path: `${job.id}/update/accepted` });
    expect(await rowOf(job, device)).toMatchObject({ status: 'SUCCEEDED', version: 3 });
    expect(await ask('$next/get', 'not json')).toMatchObject({
      path: '$next/get/rejected',
      body: { code: 'InvalidJson' },
    });
    expect(publishesTo(client)).toHaveLength(9);
  });

  test('is not told of changes, and finds them by asking', async () => {
    const { makeDevice, give } = workshop;
    const [silent, beside] = [await makeDevice(), await makeDevice()];
    const quiet = await arrive(silent, protocol);
    const listening = await arrive(beside, protocol);
    await listening.subscribe('notify-next');
    const job = await give([silent, beside]);
    expect(read((await listening.client.next('publish')) as IPublishPacket).path).toBe('notify-next');
    expect(publishesTo(quiet.client)).toEqual([]);
    expect((await quiet.ask('$next/get', '')).body.execution?.jobId).toBe(job.id);
  });

  test('hears its answers on the connection that asked, and on no other of its own', async () => {
    const { makeDevice, give } = workshop;
    const device = await makeDevice();
    const job = await give([device]);
    const one = await arrive(device, protocol, 'one');
    const other = await arrive(device, protocol, 'other');
    for (const path of ['$next/get/+', '#']) await other.subscribe(path);
    await one.ask('$next/get', '');
    await one.ask(`${job.id}/get`, '');
    await other.ask('$next/get', '');
    const heard = publishesTo(other.client).map((packet) => read(packet as IPublishPacket).path);
    expect(heard.filter((path) => path.startsWith('$next/get'))).toEqual(['$next/get/accepted']);
    expect(heard.some((path) => path.startsWith(job.id))).toBe(false);
  });

  test('that repeats a publish which was not acknowledged gets the first answer', async () => {
    const { makeDevice, give, rowOf } = workshop;
    const device = await makeDevice();
    const job = await give([device]);
    const { publish, client } = await arrive(device, protocol);
    const request = '{"status":"SUCCEEDED","statusDetails":{"a":"b"},"includeJobExecutionState":true}';
    publish(`${job.id}/update`, request);
    publish(`${job.id}/update`, request, true);
    await eventually(() => publishesTo(client).length === 2);
    const answers = publishesTo(client).map((packet) => read(packet as IPublishPacket));
    expect(answers[0]).toMatchObject({
      path: `${job.id}/update/accepted`,
      body: { executionState: { versionNumber: 2 } },
    });
    expect(answers[1]).toEqual(answers[0]);
    expect(await rowOf(job, device)).toMatchObject({ status: 'SUCCEEDED', version: 2 });
  });
});

test('a publish to another’s jobs is refused, and reaches nobody', async () => {
  const { makeDevice, give, rowOf } = workshop;
  const [one, other] = [await makeDevice(), await makeDevice()];
  const job = await give([other]);
  const { client } = await arrive(one, 5);
  const topic = `$aws/things/${other.name}/jobs/${job.id}/update`;
  client.send({
    cmd: 'publish',
    topic,
    payload: '{"status":"FAILED"}',
    qos: 1,
    dup: false,
    retain: false,
    messageId: 9,
  });
  expect(await client.next('puback')).toMatchObject({ reasonCode: 0x87 });
  expect(publishesTo(client)).toEqual([]);
  expect(await rowOf(job, other)).toMatchObject({ status: 'QUEUED', version: 1 });
});
