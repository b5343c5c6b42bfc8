import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import { matchesFilter } from './filters.ts';
import { createIncoming, type Incoming } from './incoming.ts';
import type { Limits } from './limits.ts';
import type { DisconnectReason, Message, Session } from './messages.ts';
import { createOutgoing, type Granted, type Outgoing } from './outgoing.ts';
import type { Door } from './throttle.ts';

/** What a CONNECT asked for. */
export type Asked = {
  clientId: string;
  protocol: 4 | 5;
  cleanStart: boolean;
  keepAliveMs: number;
  receiveMax: number;
  packetBytesMax: number;
  will: Message | undefined;
};

export type Connection = {
  /** Unique; the broker library knows the client by it. */
  readonly id: string;
  readonly socket: Socket;
  readonly fingerprint: Buffer;
  readonly address: string;
  asked: Asked | undefined;
  session: Session | undefined;
  /** The CONNACK is on its way: from here on, what the client subscribes to is new. */
  accepted: boolean;
  readonly subscriptions: Map<string, Granted>;
  readonly incoming: Incoming;
  outgoing: Outgoing | undefined;
  /** `performance.now()` of the last packet. */
  heardAt: number;
  /** Why it ends; the first reason given stands. */
  reason: DisconnectReason | undefined;
  /** Under the session that the row now is. */
  open(session: Session, subscriptions: Record<string, 0 | 1>): void;
  /** The best that the client's subscriptions grant this topic. */
  granted(topic: string): Granted | undefined;
  /** Ends it, telling an MQTT 5 client why. */
  end(reason: DisconnectReason, code?: number): void;
};

/** MQTT 5 3.14.2.1: what a client is told when the server ends its connection. */
const codes: Record<DisconnectReason, number> = {
  AUTH_ERROR: 0x87,
  CLIENT_INITIATED_DISCONNECT: 0x00,
  CLIENT_ERROR: 0x82,
  CONNECTION_LOST: 0x80,
  DUPLICATE_CLIENTID: 0x8e,
  FORBIDDEN_ACCESS: 0x87,
  MQTT_KEEP_ALIVE_TIMEOUT: 0x8d,
  SERVER_ERROR: 0x88,
  SERVER_INITIATED_DISCONNECT: 0x8b,
  API_INITIATED_DISCONNECT: 0x98,
  THROTTLED: 0x97,
};

const flushMaxMs = 2_000;

export type CreateConnection = {
  socket: Socket;
  fingerprint: Buffer;
  limits: Limits;
  door: Door;
  /** Sends a DISCONNECT where the protocol has one, and closes. */
  disconnect: (code: number) => void;
};

export function createConnection({ socket, fingerprint, limits, door, disconnect }: CreateConnection): Connection {
  let ending = false;
  const connection: Connection = {
    id: randomUUID(),
    socket,
    fingerprint,
    address: socket.remoteAddress ?? '',
    asked: undefined,
    session: undefined,
    accepted: false,
    subscriptions: new Map(),
    incoming: createIncoming(limits, door, () => connection.end('SERVER_ERROR')),
    outgoing: undefined,
    heardAt: performance.now(),
    reason: undefined,
    open(session, subscriptions) {
      connection.session = session;
      for (const [filter, qos] of Object.entries(subscriptions)) connection.subscriptions.set(filter, { qos });
      const { receiveMax = 65_535, packetBytesMax = Infinity } = connection.asked ?? {};
      connection.outgoing = createOutgoing({ socket, protocol: session.protocol, receiveMax, packetBytesMax }, limits);
    },
    granted(topic) {
      let best: Granted | undefined;
      for (const [filter, granted] of connection.subscriptions) {
        if ((!best || granted.qos > best.qos) && matchesFilter(filter, topic)) best = granted;
      }
      return best;
    },
    end(reason, code = codes[reason]) {
      connection.reason ??= reason;
      if (ending) return;
      ending = true;
      disconnect(code);
      // Who does not take the DISCONNECT does not keep the socket either.
      setTimeout(() => socket.destroy(), flushMaxMs).unref();
    },
  };
  return connection;
}

/** The connections that hold a session here. */
export type Held = {
  /**
   * Holds this one, and returns the one that its session was taken from. It returns the new one itself when a later turn
   * of the session is held already.
   */
  hold(connection: Connection): Connection | undefined;
  release(connection: Connection): void;
  of(identityKey: string): Connection[];
  /** Ends those that are meant, and gives them; their sockets close a little later. */
  end(which: Which, reason: DisconnectReason): Connection[];
  all: () => Connection[];
  readonly size: number;
};

export function createHeld(): Held {
  const identities = new Map<string, Map<string, Connection>>();
  let size = 0;
  const of = (identityKey: string) => [...(identities.get(identityKey)?.values() ?? [])];
  const all = () => [...identities.values()].flatMap((clients) => [...clients.values()]);
  return {
    hold(connection) {
      const { session } = connection;
      if (!session) return undefined;
      const clients = identities.get(session.key) ?? new Map<string, Connection>();
      identities.set(session.key, clients);
      const other = clients.get(session.clientId);
      if (other?.session && other.session.epoch > session.epoch) return connection;
      if (!other) size += 1;
      clients.set(session.clientId, connection);
      return other;
    },
    release(connection) {
      const { key, clientId } = connection.session ?? { key: '', clientId: '' };
      const clients = identities.get(key);
      if (clients?.get(clientId) !== connection) return;
      clients.delete(clientId);
      size -= 1;
      if (clients.size === 0) identities.delete(key);
    },
    of,
    end(which, reason) {
      const candidates = which.identityKey === undefined ? all() : of(which.identityKey);
      const chosen = candidates.filter(({ session }) => session && isMeant(session, which));
      for (const connection of chosen) connection.end(reason);
      return chosen;
    },
    all,
    get size() {
      return size;
    },
  };
}

/** Which connections are meant: those that match all that is given. */
export type Which = {
  identityKey?: string | undefined;
  certificateId?: string | undefined;
  clientId?: string | undefined;
  epochBelow?: number | undefined;
  connection?: Session | undefined;
};

function isMeant(session: Session, { certificateId, clientId, epochBelow, connection }: Which): boolean {
  if (certificateId !== undefined && session.identity.certificateId !== certificateId) return false;
  if (clientId !== undefined && session.clientId !== clientId) return false;
  if (epochBelow !== undefined && session.epoch >= epochBelow) return false;
  return connection === undefined || connection === session;
}
