import { once } from 'node:events';
import type { Socket } from 'node:net';
import { Aedes, type AuthenticateError, type Client } from 'aedes';
import type { Packet, Parser } from 'mqtt-packet';
import type { Logger } from 'pino';
import { presentedBy } from '../doors/manufacturers.ts';
import { takeConnect } from './connect-packet.ts';
import { createConnection, createHeld, type Connection, type Which } from './connections.ts';
import { defaultLimits, type Limits } from './limits.ts';
import type { ConnectRefused, DisconnectReason, Hooks, Message, Session } from './messages.ts';
import { noRouting, rowsPersistence } from './persistence.ts';
import { openPorts, type OpenPorts, type Ports } from './ports.ts';
import { createPublishing } from './publishing.ts';
import { createSubscribing } from './subscribing.ts';
import { createDoor } from './throttle.ts';
import { watchConnections } from './watch.ts';

export type { DisconnectReason, Hooks, Message, Session } from './messages.ts';

export type Listener = Pick<Ports, 'port' | 'extraPort' | 'plainPort' | 'trust'> & {
  /** To this connection, subscribed or not, once. False when it is gone. */
  answer(session: Session, message: Message): boolean;
  /**
   * To every session of the identity here whose subscriptions match. Resolves true when at least one has acknowledged it,
   * or it is on its way to one that asked for QoS 0.
   */
  notify(identityKey: string, message: Message): Promise<boolean>;
  subscribedTo(identityKey: string, topic: string): boolean;
  /** Closes what matches all that is given, and says how many. */
  close(which: Which, reason: DisconnectReason): number;
  /** The same, and resolves when their sockets are closed. */
  cut(which: Which, reason: DisconnectReason): Promise<number>;
  held(): Session[];
  /** Works on no further publish, and so reads no further from the sockets they come from, until it is resumed. */
  pause(): void;
  resume(): void;
  /** Takes clients of these authorities from now on. */
  trust(authoritiesPem: string[]): void;
  /** Accepts nobody new, finishes what is under way, and ends every connection, spread over `spreadMs`. */
  drain(options?: { graceMs?: number; spreadMs?: number }): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
};

export type ListenerDeps = Pick<OpenPorts, 'host' | 'port' | 'extraPort' | 'plainDoor' | 'tls'> & {
  hooks: Hooks;
  limits?: Partial<Limits>;
  log: Pick<Logger, 'debug' | 'error'>;
  handshakeFailed?: (reason: 'rate' | 'handshake') => void;
  /** By which certificates end. */
  nowMs?: () => number;
};

/** MQTT 3.1.1 table 3.1; the library says them in MQTT 5's own codes where that is spoken. */
const returnCodes: Record<ConnectRefused['refused'], number> = {
  'bad-client-id': 2,
  unavailable: 3,
  'not-authorized': 5,
};

/**
 * Speaks MQTT 3.1.1 and 5 over mutual TLS. This file (and `persistence.ts`) alone knows the broker library, which is used
 * for the protocol only: it routes nothing and remembers nothing. Whatever a client hears was handed to `answer` or
 * `notify`, and passed `may`.
 */
export async function listen({ hooks, log, handshakeFailed = () => {}, ...deps }: ListenerDeps): Promise<Listener> {
  const limits = { ...defaultLimits, ...deps.limits };
  const door = createDoor();
  const held = createHeld();
  const connections = new WeakMap<Client, Connection>();
  const byClientId = new Map<string, Connection>();
  const bySession = new WeakMap<Session, Connection>();
  const subscribing = createSubscribing(hooks, limits);
  const publishing = createPublishing(hooks, limits);

  const broker = await Aedes.createBroker({
    mq: noRouting,
    persistence: rowsPersistence({
      resumed: (id) => [...(byClientId.get(id)?.subscriptions ?? [])].map(([topic, { qos }]) => ({ topic, qos })),
      async unsubscribe(id, filters) {
        const connection = byClientId.get(id);
        if (connection) await subscribing.withdraw(connection, filters);
      },
    }),
    connectTimeout: limits.connectWithinMs,
    drainTimeout: 15_000,
    maxTopicLevels: limits.topicLevelsMax,
    // Room for topic and properties beside the payload, which is measured by itself.
    maximumPacketSize: limits.messageBytesMax + 4_096,
    receiveMaximum: limits.inFlightMax,
    topicAliasMaximum: 8,
    sessionExpiryIntervalLimit: limits.sessionExpirySecondsMax,
    // Sessions expire in their rows: the library shall keep no timers for them.
    pendingSessionsLimit: 1,
    preConnect(client, packet, proceed) {
      const connection = connections.get(client);
      if (connection) connection.asked = takeConnect(packet, connection.id);
      proceed(null, true);
    },
    authenticate: (client, _user, _password, done) => void admit(client, done),
    authorizePublish(client, packet, done) {
      const connection = client && connections.get(client);
      if (connection) publishing.take(connection, packet, done);
    },
    authorizeSubscribe(client, filter, done) {
      const connection = connections.get(client);
      if (connection) subscribing.ask(connection, filter, (granted) => done(null, granted ? filter : null));
    },
  });

  /** The CONNECT's effect. The row decides who it is, also when the TLS session was resumed. */
  async function admit(
    client: Client,
    done: (error: AuthenticateError | null, ok: boolean | null) => void,
  ): Promise<void> {
    const connection = connections.get(client);
    if (!connection?.asked) return;
    const { id: connectionId, fingerprint, address, asked } = connection;
    const answer = await hooks
      .connect({
        connectionId,
        fingerprint,
        address,
        ...asked,
        presented: () => presentedBy(connection.socket),
        clientId: asked.clientId || client.id,
        expirySeconds: client.sessionExpiryInterval,
      })
      .catch((error: unknown): ConnectRefused => {
        log.error({ err: error }, 'a connection could not be judged');
        return { refused: 'unavailable', detail: 'the server has a fault' };
      });
    if ('refused' in answer) {
      const error = Object.assign(new Error(answer.detail), { returnCode: returnCodes[answer.refused] });
      return done(error, false);
    }
    const { session, subscriptions } = answer;
    if (connection.socket.destroyed) return hooks.closed(session, 'CONNECTION_LOST');
    connection.open(session, subscriptions);
    byClientId.set(client.id, connection);
    bySession.set(session, connection);
    held.hold(connection)?.end('DUPLICATE_CLIENTID');
    publishing.refuseWill(connection);
    return done(null, true);
  }

  function connected(socket: Socket, fingerprint: Buffer): void {
    const client = broker.handle(socket);
    // client.close destroys the socket; its 'close' event is where a connection ends, whoever ends it.
    const disconnect = (reasonCode: number) => client.disconnect({ reasonCode });
    const connection = createConnection({ socket, fingerprint, limits, door, disconnect });
    connections.set(client, connection);
    readInTurn(connection);
    packetsOf(client).prependListener('packet', (packet: Packet) => inspect(connection, packet));
    socket.once('close', () => ended(client, connection));
  }

  /** Sees each packet before the library does. */
  function inspect(connection: Connection, packet: Packet): void {
    connection.heardAt = performance.now();
    if (packet.cmd === 'subscribe') {
      if (packet.subscriptions.length > limits.filtersPerSubscribeMax) connection.end('THROTTLED');
      // QoS 2 is granted as 1 (MQTT 3.8.4-6).
      for (const filter of packet.subscriptions) filter.qos = filter.qos === 0 ? 0 : 1;
    }
    if (packet.cmd === 'disconnect') {
      connection.reason ??= 'CLIENT_INITIATED_DISCONNECT';
      // MQTT 5 3.14.2.1: 0x04 asks for the will all the same.
      if (connection.asked && packet.reasonCode !== 0x04) connection.asked.will = undefined;
      const expirySeconds = packet.properties?.sessionExpiryInterval;
      const { session } = connection;
      if (session && session.expirySeconds > 0 && expirySeconds !== undefined) {
        session.expirySeconds = Math.min(expirySeconds, limits.sessionExpirySecondsMax);
      }
    }
  }

  function ended(client: Client, connection: Connection): void {
    if (byClientId.get(client.id) === connection) byClientId.delete(client.id);
    held.release(connection);
    connection.incoming.close();
    connection.outgoing?.close();
    if (!connection.session) return;
    publishing.leave(connection);
    hooks.closed(connection.session, connection.reason ?? 'CONNECTION_LOST');
  }

  broker.on('connackSent', (_, client) => {
    const connection = connections.get(client);
    if (!connection?.session || connection.socket.destroyed) return;
    connection.accepted = true;
    if (connection.subscriptions.size > 0) hooks.subscribed(connection.session, [...connection.subscriptions.keys()]);
  });
  broker.on('subscribe', (filters, client) => {
    const connection = connections.get(client);
    const granted = filters.map(({ topic }) => topic).filter((topic) => connection?.subscriptions.has(topic));
    // The socket may have gone while the rows were written: nobody is told of a connection after its end.
    if (!connection?.session || connection.socket.destroyed || granted.length === 0) return;
    hooks.subscribed(connection.session, granted);
  });
  // Told for clean sessions, whose unsubscribing the persistence is not asked about, and when a connection ends.
  broker.on('unsubscribe', (filters, client) => {
    const connection = connections.get(client);
    if (connection && !client.closed)
      subscribing.withdraw(connection, filters).catch(() => connection.end('SERVER_ERROR'));
  });
  broker.on('ack', (packet, client) => {
    if (packet.messageId !== undefined) connections.get(client)?.outgoing?.acknowledge(packet.messageId);
  });
  broker.on('clientError', (client, error) => {
    const connection = connections.get(client);
    // Also told of a refused publish, which ends nothing.
    if (connection?.socket.destroyed) connection.reason ??= 'code' in error ? 'CONNECTION_LOST' : 'CLIENT_ERROR';
    log.debug({ err: error, clientId: connection?.session?.clientId }, 'client error');
  });
  broker.on('connectionError', (_, error) => log.debug({ err: error }, 'connection error'));

  const ports = await openPorts({ ...deps, limits, connected, failed: handshakeFailed });
  const watch = watchConnections(held.all, limits, deps.nowMs);

  function deliver(
    connection: Connection,
    message: Message,
    granted = connection.granted(message.topic),
  ): Promise<boolean> {
    const { session, outgoing } = connection;
    if (!session || !outgoing || !hooks.may(session, 'receive', message.topic)) return Promise.resolve(false);
    return outgoing.send(message, granted);
  }

  async function drain({ graceMs = 10_000, spreadMs = 0 } = {}): Promise<void> {
    ports.close();
    const deadline = performance.now() + graceMs;
    while (performance.now() < deadline && held.all().some(({ incoming }) => incoming.busy)) await pass(20);
    const all = held.all();
    const closed = all.map(closing);
    for (const [index, connection] of all.entries()) {
      if (index > 0 && spreadMs > 0) await pass(spreadMs / all.length);
      connection.end('SERVER_INITIATED_DISCONNECT');
    }
    await Promise.all(closed);
  }

  return {
    ...ports,
    answer(session, message) {
      const connection = bySession.get(session);
      if (!connection || connection.socket.destroyed) return false;
      void deliver(connection, message);
      return true;
    },
    async notify(identityKey, message) {
      const deliveries = held.of(identityKey).flatMap((connection) => {
        const granted = connection.granted(message.topic);
        return granted ? [deliver(connection, message, granted)] : [];
      });
      return firstTrue(deliveries);
    },
    subscribedTo: (identityKey, topic) => held.of(identityKey).some((connection) => connection.granted(topic)),
    close: (which, reason) => held.end(which, reason).length,
    cut: async (which, reason) => (await Promise.all(held.end(which, reason).map(closing))).length,
    held: () => held.all().flatMap(({ session }) => session ?? []),
    pause: door.shut,
    resume: door.open,
    drain,
    async [Symbol.asyncDispose]() {
      await drain({ graceMs: 1_000 });
      watch.stop();
      await new Promise<void>((resolve) => broker.close(resolve));
    },
  };
}

/** The parser of the client's connection. aedes is pinned, and has it here (lib/client.js). */
const packetsOf = (client: Client): Parser => (client as unknown as { [parser]: Parser })[parser];
const parser = '_parser';

/** The library reads on whenever there is something to read, whatever is still under way. Then there is nothing. */
function readInTurn({ socket, incoming }: Connection): void {
  const read = socket.read.bind(socket);
  let refused = false;
  socket.read = (size) => {
    refused ||= size === null && incoming.full;
    return refused && size === null ? null : read(size);
  };
  incoming.onRoom(() => {
    if (!refused) return;
    refused = false;
    // Not at once: the library may be in the middle of what it has read.
    setImmediate(() => socket.emit('readable'));
  });
}

const closing = async ({ socket }: Connection) => void (socket.closed || (await once(socket, 'close')));

async function firstTrue(promises: Promise<boolean>[]): Promise<boolean> {
  const truths = promises.map(async (promise) => (await promise) || Promise.reject(new Error('false')));
  return Promise.any(truths).catch(() => false);
}

const pass = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
