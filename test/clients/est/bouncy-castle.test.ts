import { randomBytes, X509Certificate } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { beginOf } from '../../../db/rotation-beginnings.ts';
import { makeAway, permitRecovery } from '../../doors/away.ts';
import { openRig, type Rig } from '../../doors/rig.ts';
import { serveTestDoors, type Served } from '../../doors/served.ts';
import { estClientWithinMs, startEstClient, type EstAsking, type EstClient } from './client.ts';

let rig: Rig;
let served: Served;
let started: EstClient | string;
let client: EstClient;
beforeAll(async () => {
  rig = await openRig();
  served = await serveTestDoors(rig);
  started = await startEstClient(served);
}, estClientWithinMs);
beforeEach((context) => {
  if (typeof started === 'string') context.skip(started);
  else client = started;
});
afterAll(async () => {
  if (typeof started !== 'string') await started?.[Symbol.asyncDispose]();
  await served?.[Symbol.asyncDispose]();
  await rig?.[Symbol.asyncDispose]();
});

const freshName = () => `bc-${randomBytes(4).toString('hex')}`;
const perRequest = { namePattern: '${request.commonName}', parameters: [], attributes: {}, configuration: {} };
const makeToken = async (part = {}) => rig.makeToken((await rig.makeTemplate({ ...perRequest, ...part })).template);

/** What the client took from an answer, and has made itself. */
async function enrol(operation: 'simpleenroll' | 'simplereenroll', asking: EstAsking) {
  const { status, text } = await client.ask(operation, asking);
  expect(status).toBe('200');
  const [certificate = '', privateKey = ''] = text.split(/(?=-----BEGIN PRIVATE KEY)/);
  return { certificate, privateKey };
}

/** Connects over MQTT, as every device does, and says as whom. */
async function connect({ certificate, privateKey }: { certificate: string; privateKey: string }) {
  const credentials = { certificateId: '', certificate: certificate + rig.fleet.authority.certificatePem, privateKey };
  const mqtt = await rig.gateway.connect(credentials);
  mqtt.end(true);
  return new X509Certificate(certificate).subject;
}

test('a client that we did not write reads what to trust, and what to ask with', async () => {
  const trust = await client.ask('cacerts');
  expect(trust).toMatchObject({ status: '200' });
  const found = trust.text.match(/-----BEGIN[^-]+-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  const { rootPem, certificatePem } = rig.fleet.authority;
  expect(found.map((pem) => new X509Certificate(pem).fingerprint256).toSorted()).toEqual(
    [rootPem, certificatePem].map((pem) => new X509Certificate(pem).fingerprint256).toSorted(),
  );
  const { template } = await rig.makeTemplate({ ...perRequest, keys: ['P-384'] });
  expect((await client.ask('csrattrs')).status).toBe('200');
  expect(await client.ask('csrattrs', { label: template })).toMatchObject({ status: '200', text: /1\.2\.840\.10045/ });
});

test('by a claim token, also under a label, it becomes a device like any other', async () => {
  const commonName = freshName();
  const { token, permit } = await makeToken();
  const device = await enrol('simpleenroll', { token, commonName, label: permit.template });
  expect(await connect(device)).toBe(`CN=${commonName}`);
  expect((await client.ask('simpleenroll', { token, commonName: freshName(), label: 'another' })).status).toBe('403');
  expect((await client.ask('simpleenroll', { token: `${token.slice(0, -2)}__`, commonName })).status).toBe('401');
});

test("by a claim's certificate it does too, and by nothing it does not", async () => {
  const { template } = await rig.makeTemplate(perRequest);
  const commonName = freshName();
  const identity = await rig.fleet.makeClaim({ template });
  expect(await connect(await enrol('simpleenroll', { identity, commonName }))).toBe(`CN=${commonName}`);
  expect((await client.ask('simpleenroll', { commonName: freshName() })).status).toBe('401');
});

test('on its certificate it is given the next one', async () => {
  const device = await rig.fleet.makeDevice();
  await beginOf(rig.db, { deviceId: device.deviceId, reason: 'requested', askedBy: 'api-key/test' });
  const next = await enrol('simplereenroll', { identity: device, commonName: device.name });
  expect(await connect(next)).toBe(`CN=${device.name}`);
});

test('on a certificate that has ended it comes back, where the policy lets it', async () => {
  const device = await makeAway(rig);
  const identity = { identity: device, commonName: device.name };
  expect((await client.ask('simplereenroll', identity)).status).toBe('403');
  await permitRecovery(rig);
  expect(await connect(await enrol('simplereenroll', identity))).toBe(`CN=${device.name}`);
});

test('that has to wait, it is told so as the protocol has it', async () => {
  const { token } = await makeToken({ approval: true });
  expect((await client.ask('simpleenroll', { token, commonName: freshName() })).status).toBe('202');
});
