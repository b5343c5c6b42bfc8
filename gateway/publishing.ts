import type { Connection } from './connections.ts';
import type { Limits } from './limits.ts';
import type { Hooks, Message, Published } from './messages.ts';

/** A PUBLISH as it came from the wire. */
export type Incoming = {
  topic: string;
  payload: string | Buffer;
  qos?: 0 | 1 | 2 | undefined;
  retain?: boolean | undefined;
  properties?: Message['properties'] | undefined;
};

/** Acknowledges, or says no: 0x87 to an MQTT 5 client, the end of a 3.1.1 connection. Never called when it ends anyway. */
export type Acknowledge = (error?: Error) => void;

/** What happens to a publish, from the moment it is read until it may be acknowledged. */
export function createPublishing(hooks: Hooks, limits: Limits) {
  const lastTurns = new WeakMap<Connection, Promise<void>>();

  /** Publishes are worked on side by side, and acknowledged in the order in which they came [MQTT-4.6.0-2]. */
  async function work(connection: Connection, packet: Incoming, acknowledge: Acknowledge): Promise<void> {
    const turn = lastTurns.get(connection);
    const { promise, resolve: endTurn } = Promise.withResolvers<void>();
    lastTurns.set(connection, promise);
    const published = await judge(connection, packet);
    await turn;
    settle(connection, published, acknowledge);
    endTurn();
  }

  function settle(connection: Connection, published: Published, acknowledge: Acknowledge): void {
    if (published.outcome === 'committed') return acknowledge();
    if (published.outcome === 'given-up') return connection.end('SERVER_ERROR');
    if (connection.session?.protocol === 4) connection.reason ??= 'FORBIDDEN_ACCESS';
    return acknowledge(new Error(published.detail));
  }

  async function judge({ session }: Connection, packet: Incoming): Promise<Published> {
    if (!session) return { outcome: 'given-up', detail: 'there is no session' };
    const detail = packet.retain ? 'nothing is retained' : 'not permitted';
    if (packet.retain || !hooks.may(session, 'publish', packet.topic)) {
      hooks.denied(session, 'publish', packet.topic, detail);
      return { outcome: 'refused', detail };
    }
    return hooks.publish(session, toMessage(packet)).catch((error: unknown): Published => {
      return { outcome: 'given-up', detail: error instanceof Error ? error.message : 'an unknown error' };
    });
  }

  return {
    take(connection: Connection, packet: Incoming, acknowledge: Acknowledge): void {
      // MQTT 5 3.14.2.1: QoS not supported, packet too large. Neither is worth a second try by the client.
      if (packet.qos === 2) return connection.end('CLIENT_ERROR', 0x9b);
      if (packet.payload.length > limits.messageBytesMax) return connection.end('CLIENT_ERROR', 0x95);
      return connection.incoming.take(() => work(connection, packet, acknowledge));
    },

    /**
     * The will of a connection that its client did not end. It is a publish like any other, so a device may leave a
     * report behind and nothing else; what it may not say is dropped, at the CONNECT already (`refuseWill`).
     */
    leave({ session, asked }: Connection): void {
      if (session && asked?.will) void hooks.publish(session, asked.will).catch(() => undefined);
    },

    /** Drops a will that may not be published: the connection is as good as without it. */
    refuseWill({ session, asked }: Connection): void {
      if (!session || !asked?.will) return;
      const { topic, retain } = asked.will;
      const permitted = session.identity.kind === 'device' && !retain && hooks.may(session, 'publish', topic);
      if (permitted && !/[+#]/.test(topic)) return;
      asked.will = undefined;
      hooks.denied(session, 'will', topic, retain ? 'nothing is retained' : 'not permitted');
    },
  };
}

export function toMessage({ topic, payload, qos, retain, properties }: Incoming): Message {
  return {
    topic,
    payload: typeof payload === 'string' ? Buffer.from(payload) : payload,
    qos: qos === 0 || qos === undefined ? 0 : 1,
    ...(retain && { retain }),
    ...(properties && { properties }),
  };
}
