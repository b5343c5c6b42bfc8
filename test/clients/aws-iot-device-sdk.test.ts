import { createPublicKey, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually } from '../support/eventually.ts';
import { startSystem, type System } from '../support/system.ts';
import { dial311, dial5, type AwsClient, type Dialler } from './aws-device.ts';
import { provisionV1, provisionV2, type Provisioning } from './aws-provisioning.ts';
import { executionTopic, finished, freshParameters, listRefusals, makeClaim, makeCsr } from './fleet.ts';
import { readCommand, sendCommand, type Claim } from './fleet.ts';

let system: System;
let claim: Claim;
beforeAll(async () => {
  system = await startSystem();
  claim = await makeClaim(system);
}, 120_000);
afterAll(() => system[Symbol.asyncDispose]());

const randomId = () => `test-${randomBytes(4).toString('hex')}`;
const dialClaim = (dial: Dialler, of = claim) => dial(system.mqtt, { ...of, clientId: randomId(), cleanSession: true });

const clients: [string, Dialler, (client: AwsClient) => Provisioning, 'ec' | 'rsa'][] = [
  ['V1 client over MQTT 3.1.1', dial311, provisionV1, 'rsa'],
  ['V1 client over MQTT 5', dial5, provisionV1, 'ec'],
  ['V2 client over MQTT 3.1.1', dial311, provisionV2, 'ec'],
  ['V2 client over MQTT 5', dial5, provisionV2, 'rsa'],
];

describe.each(clients)('the unmodified SDK, %s', (_, dial, provision, algorithm) => {
  test('enrols with a CSR, comes back with its certificate, and takes commands, also one sent while it was away', async () => {
    const { csr, privateKey } = await makeCsr(algorithm);
    const parameters = freshParameters();
    const { certificateId, certificatePem, name } = await enrol();
    expect(await stateOf(name, certificateId)).toEqual({ device: 'REGISTERED', certificate: 'PENDING_ACTIVATION' });
    const own = { certificate: certificatePem, privateKey, clientId: randomId() };

    let first: string;
    {
      await using device = await dial(system.mqtt, own);
      expect(device.sessionPresent).toBe(false);
      expect(await stateOf(name, certificateId)).toEqual({ device: 'ACTIVE', certificate: 'ACTIVE' });
      await device.subscribe(executionTopic(name, '+', 'request/json'));
      await device.subscribe(executionTopic(name, '+', 'response/accepted/json'));
      first = (await sendCommand(system, name, { operation: 'reboot', delay: 5 })).id;
      await carryOut(device, name, first, { operation: 'reboot', delay: 5 });
    }
    const { id: second } = await sendCommand(system, name, { operation: 'update' });
    expect(await readCommand(system, second)).toMatchObject({ targets: [{ status: 'CREATED', deliveredAt: null }] });
    {
      await using device = await dial(system.mqtt, own);
      expect(device.sessionPresent).toBe(true);
      await carryOut(device, name, second, { operation: 'update' });
      expect(device.heard.some(({ topic }) => topic.includes(first))).toBe(false);
    }

    async function enrol() {
      await using client = await dialClaim(dial);
      const provisioning = provision(client);
      const issued = await provisioning.createFromCsr(csr);
      const registered = await provisioning.register(claim.template, issued.certificateOwnershipToken, parameters);
      expect(registered).toEqual({
        thingName: `pump-${parameters.serial}`,
        deviceConfiguration: { site: 'basel', interval: '60' },
      });
      return { ...issued, name: registered.thingName ?? '' };
    }
  });

  test('is told by name why it is refused', async () => {
    await using client = await dialClaim(dial);
    const provisioning = provision(client);
    const noCsr = provisioning.createFromCsr('not a request');
    await expect(noCsr).rejects.toMatchObject({ statusCode: 400, errorCode: 'InvalidCsr' });
    const noToken = provisioning.register(claim.template, 'x'.repeat(43), freshParameters());
    await expect(noToken).rejects.toMatchObject({ statusCode: 400, errorCode: 'InvalidCertificateOwnershipToken' });
    await expect(provisioning.createKeys()).rejects.toMatchObject({
      statusCode: 403,
      errorCode: 'ServerMadeKeysNotPermitted',
    });
    expect((await listRefusals(system, claim)).slice(-3)).toEqual([
      'InvalidCsr',
      'InvalidCertificateOwnershipToken',
      'ServerMadeKeysNotPermitted',
    ]);
  });

  test('is given its key by the server where the template permits it', async () => {
    const permitting = await makeClaim(system, { serverMadeKeys: true });
    const parameters = freshParameters();
    await using client = await dialClaim(dial, permitting);
    const provisioning = provision(client);
    const { certificatePem, certificateId, privateKey, certificateOwnershipToken } = await provisioning.createKeys();
    const { thingName = '' } = await provisioning.register(permitting.template, certificateOwnershipToken, parameters);
    await using device = await dial(system.mqtt, { certificate: certificatePem, privateKey, clientId: thingName });
    expect(await stateOf(thingName, certificateId)).toEqual({ device: 'ACTIVE', certificate: 'ACTIVE' });
    expect(device.heard).toEqual([]);
  });
});

const csrTopic = '$aws/certificates/create-from-csr/json';

describe.each([
  ['MQTT 3.1.1', dial311],
  ['MQTT 5', dial5],
])('an answer over %s', (_, dial) => {
  test.each([
    ['that never subscribed', []],
    ['that subscribed', [`${csrTopic}/accepted`, `${csrTopic}/rejected`]],
    ['that subscribed twice over', [`${csrTopic}/accepted`, `${csrTopic}/+`]],
  ])('comes once to a device %s', async (__, filters) => {
    await using device = await dialClaim(dial);
    for (const filter of filters) await device.subscribe(filter);
    const { csr: certificateSigningRequest } = await makeCsr();
    await device.publish(csrTopic, { certificateSigningRequest });
    await device.publish(csrTopic, { certificateSigningRequest: 'not a request' });
    await eventually(() => device.heard.some(({ topic }) => topic === `${csrTopic}/rejected`));
    expect(device.heard.map(({ topic }) => topic)).toEqual([`${csrTopic}/accepted`, `${csrTopic}/rejected`]);
    expect(JSON.parse(device.heard[0]?.text ?? '')).toHaveProperty('certificateOwnershipToken');
  });

  test('is heard by no other device of the line, though it subscribed to the same topic', async () => {
    await using one = await dialClaim(dial);
    await using other = await dialClaim(dial);
    for (const device of [one, other]) await device.subscribe(`${csrTopic}/accepted`);
    const [mine, yours] = [await makeCsr(), await makeCsr()];
    await one.publish(csrTopic, { certificateSigningRequest: mine.csr });
    await eventually(() => one.heard.length === 1);
    await other.publish(csrTopic, { certificateSigningRequest: yours.csr });
    await eventually(() => other.heard.length > 0);
    const keyOf = ({ heard }: AwsClient) => heard.map(({ text }) => publicKeyOf(JSON.parse(text).certificatePem));
    expect(keyOf(one)).toEqual([publicKeyOf(mine.privateKey)]);
    expect(keyOf(other)).toEqual([publicKeyOf(yours.privateKey)]);
  });
});

const publicKeyOf = (pem: string) => createPublicKey(pem).export({ type: 'spki', format: 'pem' });

/** Takes the command as a device does, and looks at the server for what came of it. */
async function carryOut(device: AwsClient, name: string, commandId: string, payload: object): Promise<void> {
  const [target] = (await readCommand(system, commandId)).targets;
  const executionId = target?.executionId ?? '';
  const requestTopic = executionTopic(name, executionId, 'request/json');
  const request = await eventually(() => device.heard.find(({ topic }) => topic === requestTopic) ?? null);
  expect(JSON.parse(request.text)).toEqual(payload);
  if ('expirySeconds' in request) {
    expect(request.contentType).toBe('application/json');
    expect(request.expirySeconds).toBeGreaterThan(0);
    expect(request.expirySeconds).toBeLessThanOrEqual(300);
  }
  const respondTopic = executionTopic(name, executionId, 'response/json');
  await device.publish(respondTopic, { status: 'IN_PROGRESS' });
  await device.publish(respondTopic, { status: 'SUCCEEDED', result: { log: { s: 'done' }, changed: { b: true } } });
  const answers = () => device.heard.filter(({ topic }) => topic.includes(`${executionId}/response`));
  await eventually(() => answers().length >= 2);
  expect(answers()).toHaveLength(2);
  for (const { topic, text } of answers()) {
    expect(topic).toBe(executionTopic(name, executionId, 'response/accepted/json'));
    expect(JSON.parse(text)).toEqual({ executionId });
  }
  const command = await finished(system, commandId);
  expect(command.targets).toMatchObject([
    { executionId, status: 'SUCCEEDED', result: { log: { s: 'done' }, changed: { b: true } } },
  ]);
  const transitions = command.targets[0]?.transitions.map(({ status, by }) => `${status} by ${by}`);
  expect(transitions).toEqual(['CREATED by service', 'IN_PROGRESS by device', 'SUCCEEDED by device']);
  expect(device.heard.filter(({ topic }) => topic === requestTopic)).toHaveLength(1);
}

async function stateOf(name: string, certificateId: string) {
  const [device, certificate] = await Promise.all([
    system.ask('GET', `/v1/devices/${name}`),
    system.ask('GET', `/v1/certificates/${certificateId}`),
  ]);
  return { device: device.body['state'], certificate: certificate.body['state'] };
}
