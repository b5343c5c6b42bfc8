import { each, openClient, type Server } from './mqtt.ts';
import type { LoadDevice } from './reports.ts';

export const reconnectJobs = {
  /** Devices that come, are accepted, and go, so many at a time. Returns accepted connections per second. */
  async reconnect({
    server,
    devices,
    atATime,
    ms,
  }: {
    server: Server;
    devices: LoadDevice[];
    atATime: number;
    ms: number;
  }) {
    const deadline = performance.now() + ms;
    let accepted = 0;
    await each(inTurn(devices, deadline), atATime, async (device) => {
      const client = await openClient(server, { credentials: device, clientId: device.name });
      if (performance.now() < deadline) accepted += 1;
      // However it closes: a reset by the other side after our goodbye is no fault.
      const closed = new Promise<void>((resolve) => client.socket.once('close', () => resolve()));
      client.end();
      await closed;
    });
    return (accepted / ms) * 1_000;
  },
};

function* inTurn<Item>(items: Item[], deadline: number): Generator<Item> {
  while (performance.now() < deadline) {
    for (const item of items) {
      if (performance.now() >= deadline) return;
      yield item;
    }
  }
}
