import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { generate, parser, type IConnackPacket, type Packet, type PacketCmd } from 'mqtt-packet';

export type RawClient = {
  socket: TLSSocket;
  received: Packet[];
  send(packet: Packet): void;
  /** The next packet of that kind that was not taken yet; undefined when the connection ends without one. */
  next<Cmd extends PacketCmd>(cmd: Cmd): Promise<Extract<Packet, { cmd: Cmd }> | undefined>;
  connack(options?: ConnectOptions): Promise<IConnackPacket | undefined>;
  /** TLS sessions that may be resumed. */
  tickets: Buffer[];
  closed: Promise<void>;
};

export type ConnectOptions = {
  clientId?: string;
  clean?: boolean;
  keepalive?: number;
  will?: { topic: string; payload: Buffer; retain?: boolean };
  properties?: { sessionExpiryInterval?: number; receiveMaximum?: number };
};

/** A client that sends exactly the packets it is told to, and answers nothing by itself. */
export async function openRaw(
  options: ConnectionOptions & { protocol?: 4 | 5; localAddress?: string },
): Promise<RawClient> {
  const { protocol = 5, ...tls } = options;
  const socket = connect(tls);
  // What a broken connection says is seen by its end.
  socket.on('error', () => {});
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const received: Packet[] = [];
  const tickets: Buffer[] = [];
  socket.on('session', (session: Buffer) => void tickets.push(session));
  const taken = new Set<Packet>();
  const waiting = new Set<() => void>();
  const packets = parser({ protocolVersion: protocol });
  packets.on('packet', (packet) => {
    received.push(packet);
    for (const look of waiting) look();
  });
  socket.on('data', (bytes: Buffer) => packets.parse(bytes));
  socket.on('close', () => waiting.forEach((look) => look()));
  await Promise.race([new Promise<void>((resolve) => socket.once('secureConnect', resolve)), closed]);

  const client: RawClient = {
    socket,
    received,
    tickets,
    closed,
    send: (packet) => void socket.write(generate(packet, { protocolVersion: protocol })),
    next<Cmd extends PacketCmd>(cmd: Cmd) {
      const { promise, resolve } = Promise.withResolvers<Extract<Packet, { cmd: Cmd }> | undefined>();
      const look = () => {
        const found = received.find((packet) => packet.cmd === cmd && !taken.has(packet));
        if (!found && !socket.destroyed) return;
        if (found) taken.add(found);
        waiting.delete(look);
        // Found by its `cmd`.
        resolve(found as Extract<Packet, { cmd: Cmd }> | undefined);
      };
      waiting.add(look);
      look();
      return promise;
    },
    async connack({ clientId = 'raw', clean = true, keepalive = 0, will, properties } = {}) {
      client.send({
        cmd: 'connect',
        protocolId: 'MQTT',
        protocolVersion: protocol,
        clientId,
        clean,
        keepalive,
        ...(will && { will: { qos: 1, retain: false, ...will } }),
        ...(properties && { properties }),
      });
      return client.next('connack');
    },
  };
  return client;
}
