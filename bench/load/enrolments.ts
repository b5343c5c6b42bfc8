import { randomBytes } from 'node:crypto';
import { createFromCsrTopic, provisionTopic } from '../../embedded/device-topics.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { each, openClient, type Client, type Credentials, type Server } from './mqtt.ts';

export type Claim = Credentials & { template: string };

type Newcomer = { client: Client; serial: string; privateKey: string; csr: string };
const newcomers: Newcomer[] = [];

export const enrolmentJobs = {
  /** Devices fresh from the factory: each with its key and request, connected with the claim. */
  async prepareNewcomers({ server, claim, count }: { server: Server; claim: Claim; count: number }) {
    await each(Array.from({ length: count }), 8, async () => {
      const serial = `bench-${randomBytes(8).toString('hex')}`;
      const { privateKeyPem: privateKey } = makeKeyPair();
      const client = await openClient(server, { credentials: claim, clientId: serial });
      newcomers.push({ client, serial, privateKey, csr: makeCsr({ privateKeyPem: privateKey }) });
    });
  },

  /** Enrols so many of them, so many at a time, from the CSR to a connection under the new certificate, in ms each. */
  async enrol({
    server,
    template,
    count,
    atATime,
  }: {
    server: Server;
    template: string;
    count: number;
    atATime: number;
  }) {
    const latencies: number[] = [];
    const startedAt = performance.now();
    const connected: Client[] = [];
    await each(newcomers.splice(0, count), atATime, async (newcomer) => {
      const begun = performance.now();
      connected.push(await enrol(server, template, newcomer));
      latencies.push(performance.now() - begun);
    });
    const perSecond = (count / (performance.now() - startedAt)) * 1_000;
    for (const client of connected) client.end();
    return { perSecond, latencies };
  },
};

async function enrol(server: Server, template: string, { client, serial, privateKey, csr }: Newcomer): Promise<Client> {
  const { certificatePem, certificateOwnershipToken } = await ask(client, createFromCsrTopic, {
    certificateSigningRequest: csr,
  });
  const registration = { certificateOwnershipToken, parameters: { serial } };
  const { thingName } = await ask(client, provisionTopic(template), registration);
  client.end();
  const credentials = { certificate: String(certificatePem), privateKey };
  return openClient(server, { credentials, clientId: String(thingName) });
}

function ask(client: Client, topic: string, body: object): Promise<Record<string, unknown>> {
  const { promise, resolve, reject } = Promise.withResolvers<Record<string, unknown>>();
  client.receive = (packet) => {
    if (packet.cmd !== 'publish' || !packet.topic.startsWith(topic)) return;
    const text = packet.payload.toString();
    // The contract's answers are JSON objects.
    if (packet.topic.endsWith('/accepted')) resolve(JSON.parse(text) as Record<string, unknown>);
    else reject(new Error(`${packet.topic}: ${text}`));
  };
  client.publish(topic, body);
  return promise;
}
