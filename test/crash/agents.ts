import { connect, type MqttClient } from 'mqtt';
import type { LoadDevice } from '../../bench/load/reports.ts';
import type { System } from '../support/system.ts';

export type Agents = AsyncDisposable & {
  names: string[];
  /** Executions that were begun, each as `<device> <job> <attempt>`: more than once is once too often. */
  begun: string[];
  connected(): number;
};

export type Outcome = 'SUCCEEDED' | 'FAILED';

/** Devices that do as their jobs say, each on an ordinary MQTT client that sends again what was not acknowledged. */
export function startAgents(
  { mqtt }: System,
  devices: LoadDevice[],
  { product, outcomeOf, workMs }: { product: string; outcomeOf: (name: string) => Outcome; workMs: number },
): Agents {
  const begun: string[] = [];
  const clients = devices.map(({ name, certificate, privateKey }) => {
    const client = connect({
      protocol: 'mqtts',
      host: mqtt.host,
      port: mqtt.port,
      servername: mqtt.serverName,
      ca: mqtt.ca,
      cert: certificate,
      key: privateKey,
      clientId: name,
      protocolVersion: 5,
      reconnectPeriod: 500,
      reconnectOnConnackError: true,
      connectTimeout: 15_000,
    });
    const say = (path: string, body: object) =>
      client.publishAsync(`$aws/things/${name}/${path}`, JSON.stringify(body), { qos: 1 });
    const busy = new Set<string>();

    async function execute({ jobId, executionNumber, jobDocument }: Execution): Promise<void> {
      const key = `${name} ${jobId} ${executionNumber}`;
      if (busy.has(key)) return;
      busy.add(key);
      begun.push(key);
      await say(`jobs/${jobId}/update`, { status: 'IN_PROGRESS', executionNumber });
      await new Promise((resolve) => setTimeout(resolve, workMs));
      const status = outcomeOf(name);
      const reported = { [product]: { version: jobDocument.version } };
      if (status === 'SUCCEEDED') await say('shadow/name/$package/update', { state: { reported } });
      await say(`jobs/${jobId}/update`, { status, executionNumber });
    }

    client.on('error', () => {}); // it tries again
    client.on('connect', () => {
      const topics = ['jobs/notify-next', 'jobs/$next/get/accepted'].map((path) => `$aws/things/${name}/${path}`);
      void client
        .subscribeAsync(topics, { qos: 1 })
        .then(() => say('jobs/$next/get', {}))
        .catch(() => {}); // the next connection asks again
    });
    client.on('message', (_, payload) => {
      // What the gateway sends is its contract.
      const { execution } = JSON.parse(payload.toString()) as { execution?: Execution };
      if (execution) void execute(execution).catch(() => {}); // the test has ended
    });
    return client;
  });
  return {
    names: devices.map(({ name }) => name),
    begun,
    connected: () => clients.filter((client) => client.connected).length,
    [Symbol.asyncDispose]: () => endAll(clients),
  };
}

type Execution = { jobId: string; executionNumber: number; jobDocument: { version: string } };

const endAll = async (clients: MqttClient[]): Promise<void> =>
  void (await Promise.all(clients.map((client) => client.endAsync(true))));
