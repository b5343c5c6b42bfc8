import { once } from 'node:events';
import { connect as connectPlain, type Socket } from 'node:net';
import { connect, createSecureContext, type SecureContext } from 'node:tls';
import { generate, parser, type Packet } from 'mqtt-packet';
import { fingerprintOf } from '../door.ts';

export type Server = { host: string; port: number; serverName: string; ca: string };
export type Credentials = { certificate: string; privateKey: string };

/** A client that costs little, for load: it speaks MQTT 5 and does what it is told. */
export type Client = {
  socket: Socket;
  send(packet: Packet): void;
  /** QoS 1; the message id that its acknowledgement will carry. */
  publish(topic: string, body: object): number;
  subscribe(filters: string[]): void;
  /** Is given every packet after the CONNACK. */
  receive: (packet: Packet) => void;
  end(): void;
};

const contexts = new Map<string, SecureContext>();

/** Keys and certificates are read once per device, so that a reconnect costs the client its handshake and no more. */
export function contextOf(server: Server, { certificate, privateKey }: Credentials): SecureContext {
  const known = contexts.get(certificate);
  const context = known ?? createSecureContext({ ca: server.ca, cert: certificate, key: privateKey });
  contexts.set(certificate, context);
  return context;
}

const protocolVersion = 5;

/**
 * A whole handshake and a CONNECT; resolves once the session is accepted, rejects when it is not. Without credentials it
 * goes through a door without TLS, and what stands for its certificate is said first.
 */
export async function openClient(
  server: Server,
  { credentials, clientId }: { credentials?: Credentials | undefined; clientId: string },
): Promise<Client> {
  const socket = credentials ? openSecure(server, credentials) : openPlain(server, clientId);
  socket.setNoDelay(true);
  const accepted = Promise.withResolvers<void>();
  let lastId = 0;
  const client: Client = {
    socket,
    receive: () => {},
    send: (packet) => void socket.write(generate(packet, { protocolVersion })),
    publish(topic, body) {
      lastId = (lastId % 65_535) + 1;
      const payload = JSON.stringify(body);
      client.send({ cmd: 'publish', topic, payload, qos: 1, messageId: lastId, dup: false, retain: false });
      return lastId;
    },
    subscribe(filters) {
      lastId = (lastId % 65_535) + 1;
      const subscriptions = filters.map((topic) => ({ topic, qos: 1 as const }));
      client.send({ cmd: 'subscribe', messageId: lastId, subscriptions });
    },
    end() {
      client.send({ cmd: 'disconnect', reasonCode: 0 });
      socket.end();
    },
  };
  const packets = parser({ protocolVersion });
  packets.on('packet', (packet) => {
    if (packet.cmd === 'connack') {
      if (packet.reasonCode === 0) accepted.resolve();
      else accepted.reject(new Error(`${clientId} was refused: ${packet.reasonCode}`));
      return;
    }
    // At least once, as the real ones: acknowledged when it is here.
    if (packet.cmd === 'publish' && packet.qos > 0) client.send({ cmd: 'puback', messageId: packet.messageId ?? 0 });
    client.receive(packet);
  });
  socket.on('data', (bytes: Buffer) => packets.parse(bytes));
  socket.on('error', (error) => accepted.reject(error));
  socket.on('close', () => accepted.reject(new Error(`${clientId} was closed`)));
  accepted.promise.catch(() => {}); // it may come before anybody waits for it
  await Promise.race([once(socket, credentials ? 'secureConnect' : 'connect'), accepted.promise]);
  client.send({ cmd: 'connect', protocolId: 'MQTT', protocolVersion, clientId, clean: true, keepalive: 600 });
  await accepted.promise;
  return client;
}

function openSecure(server: Server, credentials: Credentials): Socket {
  const { host, port, serverName: servername } = server;
  const secureContext = contextOf(server, credentials);
  return connect({ host, port, servername, secureContext, ALPNProtocols: ['mqtt'] });
}

function openPlain({ host, port }: Server, name: string): Socket {
  const socket = connectPlain({ host, port });
  socket.write(fingerprintOf(name));
  return socket;
}

/** Does the work for each item, so many at a time. */
export async function each<Item>(items: Iterable<Item>, atATime: number, work: (item: Item) => Promise<void>) {
  const queue = items[Symbol.iterator]();
  const worker = async () => {
    for (let next = queue.next(); !next.done; next = queue.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: atATime }, worker));
}
