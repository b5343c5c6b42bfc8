import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { text } from 'node:stream/consumers';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { each, type Server } from './mqtt.ts';

let requests: string[] = [];

export const estJobs = {
  /** Requests of so many devices, each for a key of its own, as EST carries them. */
  async prepareRequests({ count }: { count: number }) {
    requests = Array.from({ length: count }, () =>
      makeCsr(makeKeyPair(), `est-${randomBytes(8).toString('hex')}`)
        .replaceAll(/-----.*-----/g, '')
        .trim(),
    );
  },

  /** Sends them all, so many at a time, each in a TLS connection of its own. Returns answers per second. */
  async enrolByEst({ server, token, atATime }: { server: Server; token?: string; atATime: number }) {
    const startedAt = performance.now();
    await each(requests, atATime, (csr) => enrol(server, csr, token));
    return (requests.length / (performance.now() - startedAt)) * 1_000;
  },
};

async function enrol({ host, port, serverName: servername, ca }: Server, csr: string, token?: string): Promise<void> {
  const headers = {
    'content-type': 'application/pkcs10',
    'content-transfer-encoding': 'base64',
    ...(token !== undefined && { authorization: `Basic ${Buffer.from(`device:${token}`).toString('base64')}` }),
  };
  const path = '/.well-known/est/simpleenroll';
  const sent = request({ method: 'POST', host, port, servername, ca, path, headers, agent: false });
  sent.end(csr);
  // The event has one argument.
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  const body = await text(response);
  if (response.statusCode !== 200) throw new Error(`answered ${response.statusCode}: ${body}`);
}
