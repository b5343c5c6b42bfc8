import { createFromCsrTopic, notifyNextTopic } from '../../embedded/device-topics.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { each, openClient, type Client, type Server } from './mqtt.ts';
import type { LoadDevice } from './reports.ts';

type Api = { url: string; token: string };
type Rotating = LoadDevice & { client: Client; nextKey: string; csr: string };
const ready: Rotating[] = [];
const rotated: Client[] = [];

export const rotationJobs = {
  /** Connected, listening for orders, and each with the key that it will ask for. */
  async prepareRotations({ server, devices }: { server: Server; devices: LoadDevice[] }) {
    await each(devices, 8, async (device) => {
      const { privateKeyPem: nextKey } = makeKeyPair();
      const client = await openClient(server, { credentials: device, clientId: device.name });
      client.subscribe([
        notifyNextTopic(device.name),
        `${createFromCsrTopic}/accepted`,
        `${createFromCsrTopic}/rejected`,
      ]);
      ready.push({ ...device, client, nextKey, csr: makeCsr({ privateKeyPem: nextKey }) });
    });
  },

  /** Orders a rotation for each of them, so many at a time: until each has connected with its new certificate. */
  async rotate({ server, api, atATime }: { server: Server; api: Api; atATime: number }) {
    await each(ready.splice(0), atATime, (device) => rotate(server, api, device));
  },

  async endRotations() {
    for (const client of rotated.splice(0)) client.end();
  },
};

async function rotate(server: Server, api: Api, device: Rotating): Promise<void> {
  const { name, client, csr, nextKey: privateKey } = device;
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  client.receive = (packet) => {
    if (packet.cmd !== 'publish') return;
    const text = packet.payload.toString();
    if (packet.topic.endsWith('/rejected')) reject(new Error(`${packet.topic}: ${text}`));
    else if (packet.topic.endsWith('/accepted')) {
      // The contract's answers are JSON objects.
      resolve((JSON.parse(text) as { certificatePem: string }).certificatePem);
    } else if (text.includes('rotate-certificate')) {
      client.publish(createFromCsrTopic, { certificateSigningRequest: csr });
    }
  };
  const headers = { authorization: `Bearer ${api.token}` };
  const answered = await fetch(`${api.url}/v1/devices/${name}/rotations`, { method: 'POST', headers });
  if (!answered.ok) throw new Error(`answered ${answered.status}: ${await answered.text()}`);
  const credentials = { certificate: await promise, privateKey };
  rotated.push(await openClient(server, { credentials, clientId: name }));
}
