import { commandFilters, commandResponseTopic } from '../../embedded/device-topics.ts';
import { each, openClient, type Client, type Credentials, type Server } from './mqtt.ts';

export type LoadDevice = Credentials & { deviceId: string; name: string };

const fleets = new Map<string, { device: LoadDevice; client: Client }[]>();

/** Devices that stay connected, under the name of their fleet, until they are told to go. */
export const reportJobs = {
  async connectFleet(order: { fleet: string; server: Server; devices: LoadDevice[]; subscribe: boolean }) {
    const { fleet, server, devices, subscribe } = order;
    const connected: { device: LoadDevice; client: Client }[] = [];
    await each(devices, 16, async (device) => {
      const client = await openClient(server, { credentials: device, clientId: device.name });
      if (subscribe) client.subscribe(commandFilters(device.name));
      connected.push({ device, client });
    });
    fleets.set(fleet, connected);
    return connected.length;
  },

  async disconnectFleet({ fleet }: { fleet: string }) {
    for (const { client } of fleets.get(fleet) ?? []) client.end();
    fleets.delete(fleet);
  },

  /**
   * Every device reports its progress in one execution after the other, `inFlight` reports unacknowledged at a time, no
   * two reports alike. Returns acknowledged reports per second, after the last acknowledgement and the last answer.
   */
  async report(order: { fleet: string; executions: Record<string, string[]>; inFlight: number; ms: number }) {
    const { fleet, executions, inFlight, ms } = order;
    const reporters = fleets.get(fleet) ?? [];
    const startedAt = performance.now();
    const deadline = startedAt + ms;
    const counts = await Promise.all(
      reporters.map(({ device, client }) =>
        reportUntil(deadline, client, device, executions[device.name] ?? [], inFlight),
      ),
    );
    return (counts.reduce((sum, count) => sum + count, 0) / ms) * 1_000;
  },
};

function reportUntil(deadline: number, client: Client, device: LoadDevice, executions: string[], inFlight: number) {
  const { promise, resolve } = Promise.withResolvers<number>();
  let sent = 0;
  let acknowledged = 0;
  let answered = 0;
  let inTime = 0;
  const report = () => {
    const executionId = executions[sent % executions.length] ?? '';
    sent += 1;
    const statusReason = { reasonCode: `STEP_${sent}`, reasonDescription: `step ${sent} of many` };
    client.publish(commandResponseTopic(device.name, executionId), { status: 'IN_PROGRESS', statusReason });
  };
  client.receive = (packet) => {
    if (packet.cmd === 'publish') answered += 1;
    if (packet.cmd === 'puback') {
      acknowledged += 1;
      if (performance.now() < deadline) {
        inTime += 1;
        report();
      }
    }
    if (acknowledged === sent && answered === sent) resolve(inTime);
  };
  for (let n = 0; n < inFlight; n++) report();
  return promise;
}
