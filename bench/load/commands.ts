import { setTimeout as pause } from 'node:timers/promises';
import type { Packet } from 'mqtt-packet';
import postgres from 'postgres';
import { commandFilters, commandResponseTopic, readCommandTopic } from '../../embedded/device-topics.ts';
import { openConnection, requestOf } from './http.ts';
import { openClient, type Client, type Server } from './mqtt.ts';
import type { LoadDevice } from './reports.ts';

/** Between two commands, so that the second finds everything idle. */
const restMs = 150;

let device: { client: Client; name: string; accepted: Map<string, PromiseWithResolvers<void>> } | undefined;
let echo: { client: Client; name: string } | undefined;

export const commandJobs = {
  /** A device that carries every command out at once. */
  async listenForCommands({ server, device: { name, ...credentials } }: { server: Server; device: LoadDevice }) {
    const client = await openClient(server, { credentials, clientId: name });
    const accepted = new Map<string, PromiseWithResolvers<void>>();
    const subscribed = Promise.withResolvers<void>();
    client.receive = (packet) => {
      if (packet.cmd === 'suback') subscribed.resolve();
      if (packet.cmd !== 'publish') return;
      const { executionId, about } = readCommandTopic(name, packet.topic) ?? {};
      if (!executionId) return;
      if (about === 'request') client.publish(commandResponseTopic(name, executionId), { status: 'SUCCEEDED' });
      else settle(accepted, executionId).resolve();
    };
    client.subscribe(commandFilters(name));
    await subscribed.promise;
    device = { client, name, accepted };
  },

  /**
   * Sends that device a command through the API; milliseconds from the request until the device is told that its result
   * stands, which it is after the commit of the row.
   */
  async sendCommands({ port, token, count }: { port: number; token: string; count: number }) {
    if (!device) throw new Error('no device listens');
    const { name, accepted } = device;
    const request = requestOf({
      port,
      path: '/v1/commands',
      token,
      body: { targets: name, payload: { action: 'blink' } },
    });
    await using connection = await openConnection(port);
    const latencies: number[] = [];
    for (let n = 0; n < count; n++) {
      await pause(restMs);
      const begun = performance.now();
      const { status, body } = await connection.post(request);
      if (status !== 202) throw new Error(`answered ${status}: ${body}`);
      // An accepted command, with one target, as asked.
      const { targets } = JSON.parse(body) as { targets: [{ executionId: string }] };
      await settle(accepted, targets[0].executionId).promise;
      latencies.push(performance.now() - begun);
    }
    return latencies;
  },

  async listenToBroker({ server, device: { name, ...credentials } }: { server: Server; device: LoadDevice }) {
    echo = { client: await openClient(server, { credentials, clientId: name }), name };
  },

  /** A commit, a message to the broker and its answer, a commit; milliseconds each. */
  async commitAndEcho({ databaseUrl, count }: { databaseUrl: string; count: number }) {
    if (!echo) throw new Error('nobody listens to the broker');
    const { client, name } = echo;
    const sql = postgres(databaseUrl, { max: 1, onnotice: () => {} });
    await sql`create table if not exists bench_commits (n int not null)`;
    const latencies: number[] = [];
    for (let n = 0; n < count; n++) {
      await pause(restMs);
      const begun = performance.now();
      await sql`insert into bench_commits (n) values (${n})`;
      const answered = Promise.withResolvers<void>();
      client.receive = (packet: Packet) => void (packet.cmd === 'publish' && answered.resolve());
      client.publish(commandResponseTopic(name, `execution-${n}`), { status: 'SUCCEEDED' });
      await answered.promise;
      await sql`insert into bench_commits (n) values (${n})`;
      latencies.push(performance.now() - begun);
    }
    await sql.end();
    return latencies;
  },
};

/** Whoever comes first, the one who waits or the one who tells, makes it. */
function settle(promises: Map<string, PromiseWithResolvers<void>>, id: string): PromiseWithResolvers<void> {
  const known = promises.get(id) ?? Promise.withResolvers<void>();
  promises.set(id, known);
  return known;
}
