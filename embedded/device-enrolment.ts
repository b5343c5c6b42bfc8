import { randomBytes } from 'node:crypto';
import { makeCsr } from '../pki/keys.ts';
import { dial, type Broker, type Connection, type Credentials, type ProtocolVersion } from './device-connection.ts';
import type { DeviceFolder } from './device-folder.ts';
import { createFromCsrTopic, provisionTopic } from './device-topics.ts';

export type Enrolment = {
  broker: Broker;
  folder: DeviceFolder;
  claim: Credentials;
  template: string;
  parameters: Record<string, string>;
  protocolVersion: ProtocolVersion;
  signal: AbortSignal;
};

/** The fleet answered an enrolment with no. */
export class EnrolmentRefused extends Error {
  override name = 'EnrolmentRefused';
  readonly code: string;

  constructor(code: string, message: string) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

const patienceMs = 15_000;

/**
 * Fleet provisioning by claim: a certificate for its own key, then a name. Each step is kept before the next, so a
 * device that is cut off goes on where it was, and asking again gives what the first time gave.
 */
export async function enrol(enrolment: Enrolment): Promise<string> {
  const { broker, folder, claim, template, parameters, protocolVersion, signal } = enrolment;
  const clientId = `enrolling-${randomBytes(6).toString('hex')}`;
  const client = await dial(broker, { ...claim, clientId, protocolVersion, sessionSeconds: 0 }, signal);
  try {
    if (!folder.state().ownershipToken) {
      const csr = { certificateSigningRequest: makeCsr({ privateKeyPem: folder.privateKey }) };
      const issued = await ask(client, createFromCsrTopic, csr);
      folder.keepCertificate(String(issued['certificatePem']));
      folder.keepState({ ownershipToken: String(issued['certificateOwnershipToken']) });
    }
    const registration = { certificateOwnershipToken: folder.state().ownershipToken, parameters };
    const { thingName, deviceConfiguration } = await ask(client, provisionTopic(template), registration);
    const name = String(thingName);
    folder.keepState({ name, configuration: deviceConfiguration ?? {} });
    return name;
  } catch (error) {
    const stale = error instanceof EnrolmentRefused && error.code === 'InvalidCertificateOwnershipToken';
    if (stale) folder.forgetIdentity();
    throw error;
  } finally {
    client.end();
  }
}

/** Publishes a request and waits for the one answer, accepted or rejected. */
async function ask(client: Connection, topic: string, request: object): Promise<Record<string, unknown>> {
  const { promise, resolve, reject } = Promise.withResolvers<Record<string, unknown>>();
  const hear = (answered: string, payload: Buffer) => {
    // The contract's answers are JSON objects; one that is not fails the enrolment, and it is tried again.
    if (!answered.startsWith(`${topic}/`)) return;
    const body: Record<string, unknown> = JSON.parse(payload.toString());
    if (answered.endsWith('/accepted')) return resolve(body);
    const { errorCode, errorMessage } = body;
    reject(new EnrolmentRefused(String(errorCode), String(errorMessage)));
  };
  const cut = () => reject(new Error('the connection ended before the answer'));
  const timer = setTimeout(() => reject(new Error(`no answer on ${topic} in ${patienceMs} ms`)), patienceMs);
  client.on('message', hear).once('close', cut);
  try {
    await client.subscribeAsync([`${topic}/accepted`, `${topic}/rejected`], { qos: 1 });
    await client.publishAsync(topic, JSON.stringify(request), { qos: 1 });
    return await promise;
  } finally {
    promise.catch(() => {});
    clearTimeout(timer);
    client.off('message', hear).off('close', cut);
  }
}
