import { randomBytes } from 'node:crypto';
import { decode, encode } from 'cbor-x';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { beginOf } from '../../db/rotation-beginnings.ts';
import { executions } from '../../db/rollout-schema.ts';
import { certificates } from '../../db/schema.ts';
import { rotateCertificate, rotateCertificateId } from '../../workflows/rotate-certificate.ts';
import { openRig, type Rig } from '../doors/rig.ts';
import { eventually } from '../support/eventually.ts';
import { dial311, dial5 } from './aws-device.ts';
import { jobsV2 } from './aws-jobs.ts';
import { provisionV2 } from './aws-provisioning.ts';
import { makeCsr } from './fleet.ts';

let rig: Rig;
beforeAll(async () => void (rig = await openRig()), 120_000);
afterAll(() => rig?.[Symbol.asyncDispose]());

type Device = Awaited<ReturnType<Rig['fleet']['makeDevice']>>;

/** What an operator orders; the old certificate ends with the proof. */
async function order({ deviceId, name: device }: Device) {
  const [begun] = await beginOf(rig.db, { deviceId, reason: 'requested', askedBy: 'api-key/test' });
  const { rotationId = '' } = begun ?? {};
  const { client, taskQueue } = rig.temporal;
  const workflowId = rotateCertificateId(device);
  const args = [{ rotationId, deviceId, device, limits: { graceMs: 0 } }] as [Parameters<typeof rotateCertificate>[0]];
  const lifecycle = await client.workflow.start(rotateCertificate, { workflowId, taskQueue, args });
  const isQueued = () => rig.db.$count(executions, eq(executions.jobId, rotationId));
  await eventually(async () => (await isQueued()) === 1);
  rig.wire.tell({ orders: [deviceId] });
  return { rotationId, lifecycle };
}

const brokerOf = ({ gateway, fleet }: Rig) => ({
  host: '127.0.0.1',
  port: gateway.listener.port,
  serverName: 'localhost',
  ca: fleet.authority.rootPem,
});
const stateOf = async (id: string) =>
  (await rig.db.select().from(certificates).where(eq(certificates.id, id)))[0]?.state;

test.each([
  ['MQTT 3.1.1', dial311],
  ['MQTT 5', dial5],
])(
  'the SDK over %s hears the order as a job, asks by its identity client, and has done it by coming back',
  async (_, dial) => {
    const device = await rig.fleet.makeDevice();
    const clientId = `aws-${randomBytes(4).toString('hex')}`;
    const { csr, privateKey } = await makeCsr();
    const { issued, lifecycle, rotationId } = await askForNext();
    expect(await stateOf(issued.certificateId)).toBe('PENDING_ACTIVATION');
    expect(await stateOf(device.certificateId)).toBe('ACTIVE');
    await using next = await dial(brokerOf(rig), { certificate: issued.certificatePem, privateKey, clientId });
    expect(await lifecycle.result()).toBe('ROTATED');
    expect(await stateOf(device.certificateId)).toBe('REVOKED');
    expect((await jobsV2(next, device.name).pending()).inProgressJobs).toEqual([]);
    const [execution] = await rig.db.select().from(executions).where(eq(executions.jobId, rotationId));
    expect(execution).toMatchObject({ status: 'SUCCEEDED', deviceId: device.deviceId });

    async function askForNext() {
      await using client = await dial(brokerOf(rig), { ...device, clientId });
      const jobs = jobsV2(client, device.name);
      const heard = await jobs.listen();
      const ordered = await order(device);
      await eventually(() => heard.next.length > 0);
      const jobDocument = { operation: 'rotate-certificate', certificateId: device.certificateId };
      expect(heard.next[0]?.execution).toMatchObject({ jobId: ordered.rotationId, status: 'QUEUED', jobDocument });
      const begun = await jobs.startNext();
      expect(begun.execution).toMatchObject({ jobId: ordered.rotationId, status: 'IN_PROGRESS', jobDocument });
      const answer = await provisionV2(client).createFromCsr(csr);
      expect(answer.certificateOwnershipToken).toBe('');
      return { issued: answer, ...ordered };
    }
  },
);

test('a device that speaks CBOR asks for its next certificate in it, and is refused in it', async () => {
  const device = await rig.fleet.makeDevice();
  const client = await rig.gateway.connect(device);
  const { csr, privateKey } = await makeCsr();
  expect(await askInCbor({ certificateSigningRequest: csr })).toMatchObject({
    to: 'rejected',
    body: { statusCode: 409, errorCode: 'RotationNotDue' },
  });
  const { lifecycle } = await order(device);
  const { to, body } = await askInCbor({ certificateSigningRequest: csr });
  expect({ to, token: body['certificateOwnershipToken'] }).toEqual({ to: 'accepted', token: '' });
  client.end(true);
  const certificateId = String(body['certificateId']);
  const next = { certificateId, certificate: String(body['certificatePem']), privateKey };
  (await rig.gateway.connect(next)).end(true);
  expect(await lifecycle.result()).toBe('ROTATED');
  expect(await stateOf(device.certificateId)).toBe('REVOKED');

  async function askInCbor(request: object): Promise<{ to: string; body: Record<string, unknown> }> {
    const topic = '$aws/certificates/create-from-csr/cbor';
    await client.subscribeAsync([`${topic}/accepted`, `${topic}/rejected`], { qos: 1 });
    const { promise, resolve } = Promise.withResolvers<[string, Buffer]>();
    const hear = (heard: string, payload: Buffer) => void (heard.startsWith(topic) && resolve([heard, payload]));
    client.on('message', hear);
    await client.publishAsync(topic, encode(request), { qos: 1 });
    const [heard, payload] = await promise;
    client.off('message', hear);
    // Every answer is a map.
    return { to: heard.slice(topic.length + 1), body: decode(payload) as Record<string, unknown> };
  }
});
