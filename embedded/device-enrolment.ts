import { randomBytes } from 'node:crypto';
import { makeCsr } from '../pki/keys.ts';
import { ask, CertificateRefused } from './device-asking.ts';
import { dial, type Broker, type Credentials, type ProtocolVersion } from './device-connection.ts';
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
      const csr = { certificateSigningRequest: makeCsr({ privateKeyPem: folder.privateKey() }) };
      const issued = await ask(client, createFromCsrTopic, csr);
      folder.keepCertificate(String(issued['certificatePem']));
      const ownershipToken = String(issued['certificateOwnershipToken']);
      folder.keepState({ ...folder.state(), certificateId: String(issued['certificateId']), ownershipToken });
    }
    const registration = { certificateOwnershipToken: folder.state().ownershipToken, parameters };
    const { thingName, deviceConfiguration } = await ask(client, provisionTopic(template), registration);
    const name = String(thingName);
    const { ownershipToken: _, ...kept } = folder.state();
    folder.keepState({ ...kept, name, configuration: deviceConfiguration ?? {} });
    return name;
  } catch (error) {
    const stale = error instanceof CertificateRefused && error.code === 'InvalidCertificateOwnershipToken';
    if (stale) folder.forgetIdentity();
    throw error;
  } finally {
    client.end();
  }
}
