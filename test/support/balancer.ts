import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export type Balancer = AsyncDisposable & {
  port: number;
  /** Sends newcomers to this one of the ports from now on, while it is there; undefined: to each in turn. */
  prefer(port: number | undefined): void;
};

/** A TCP balancer on 127.0.0.1, as it stands before several gateways: passes bytes on, and knows nothing of them. */
export async function startBalancer(ports: number[]): Promise<Balancer> {
  const sockets = new Set<Socket>();
  let preferred: number | undefined;
  let turn = 0;

  function inOrder(): number[] {
    const first = preferred === undefined ? turn++ % ports.length : ports.indexOf(preferred);
    return [...ports.slice(first), ...ports.slice(0, first)];
  }

  function hold(socket: Socket): Socket {
    sockets.add(socket);
    return socket.on('error', () => {}).once('close', () => sockets.delete(socket));
  }

  async function pass(client: Socket): Promise<void> {
    const gateway = await dialFirst(inOrder());
    if (!gateway) return void client.destroy();
    hold(gateway);
    client.once('close', () => gateway.destroySoon());
    gateway.once('close', () => client.destroySoon());
    client.pipe(gateway).pipe(client);
  }

  const server = createServer({ pauseOnConnect: true, noDelay: true }, (client) => void pass(hold(client)));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    // A server that listens on TCP has an address of this kind.
    port: (server.address() as AddressInfo).port,
    prefer: (port) => void (preferred = port),
    async [Symbol.asyncDispose]() {
      const closed = once(server.close(), 'close');
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function dialFirst(ports: number[]): Promise<Socket | undefined> {
  for (const port of ports) {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    const isThere = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    if (isThere) return socket;
    socket.destroy();
  }
  return undefined;
}
