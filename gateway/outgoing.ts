import { writeToStream } from 'mqtt-packet';
import type { Duplex } from 'node:stream';
import type { Limits } from './limits.ts';
import type { Message } from './messages.ts';

/** What a client said of itself in its CONNECT, as far as it bounds what it is sent. */
export type Receiver = { socket: Duplex; protocol: 4 | 5; receiveMax: number; packetBytesMax: number };

export type Granted = { qos: 0 | 1; subscriptionIdentifier?: number | undefined };

export type Outgoing = {
  /**
   * Sends the message once, at the QoS granted or less. Resolves true when the client has acknowledged it (QoS 0: when it
   * is on its way), false when it did not in time, cannot take it, or is gone.
   */
  send(message: Message, granted?: Granted): Promise<boolean>;
  acknowledge(messageId: number): void;
  /** Gives up what was to be acknowledged before that time (`performance.now()`). */
  expire(before: number): void;
  close(): void;
};

type Waiting = { message: Message; granted: Granted | undefined; settle: (acknowledged: boolean) => void };
type Sent = { at: number; settle: (acknowledged: boolean) => void };

/**
 * The messages on their way to one client: no more unacknowledged at a time than it can take (Receive Maximum, MQTT 5
 * 3.3.4), a bounded number waiting behind them, and nothing kept when the connection ends.
 */
export function createOutgoing(receiver: Receiver, limits: Limits): Outgoing {
  const { socket, protocol, packetBytesMax } = receiver;
  const windowMax = Math.min(receiver.receiveMax, limits.inFlightMax);
  const sent = new Map<number, Sent>();
  const waiting: Waiting[] = [];
  let lastId = 0;
  let closed = false;

  function send(message: Message, granted?: Granted): Promise<boolean> {
    if (closed || socket.destroyed) return Promise.resolve(false);
    if (socket.writableLength > limits.unreadBytesMax) {
      socket.destroy();
      return Promise.resolve(false);
    }
    if (Math.min(message.qos, granted?.qos ?? message.qos) === 0) return Promise.resolve(write(message, granted));
    if (sent.size >= windowMax && waiting.length >= limits.outgoingMax) return Promise.resolve(false);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    waiting.push({ message, granted, settle: resolve });
    flush();
    return promise;
  }

  function flush(): void {
    while (sent.size < windowMax) {
      const next = waiting.shift();
      if (!next) return;
      const messageId = freeId();
      if (!write(next.message, next.granted, messageId)) next.settle(false);
      else sent.set(messageId, { at: performance.now(), settle: next.settle });
    }
  }

  function freeId(): number {
    do lastId = (lastId % 65_535) + 1;
    while (sent.has(lastId));
    return lastId;
  }

  /** False when the client has said that it takes no packet so large (MQTT 5 3.1.2.11.4). */
  function write(message: Message, granted: Granted | undefined, messageId?: number): boolean {
    const payload = Buffer.from(message.payload.buffer, message.payload.byteOffset, message.payload.byteLength);
    const properties = { ...message.properties, ...identified(granted) };
    // Topic, ids and lengths; user properties are ours and short.
    if (payload.length + message.topic.length + 512 > packetBytesMax) return false;
    const header = { cmd: 'publish', topic: message.topic, payload, dup: false, retain: false } as const;
    const qos = messageId === undefined ? ({ qos: 0 } as const) : ({ qos: 1, messageId } as const);
    const { correlationData, ...rest } = properties;
    const encoded = { ...rest, ...(correlationData && { correlationData: Buffer.from(correlationData) }) };
    writeToStream({ ...header, ...qos, ...(protocol === 5 && { properties: encoded }) }, socket, {
      protocolVersion: protocol,
    });
    return true;
  }

  return {
    send,
    acknowledge(messageId) {
      const acknowledged = sent.get(messageId);
      sent.delete(messageId);
      acknowledged?.settle(true);
      flush();
    },
    expire(before) {
      // The slot stays taken until the client acknowledges: MQTT has no other way to free a message id.
      for (const { at, settle } of sent.values()) if (at < before) settle(false);
    },
    close() {
      closed = true;
      for (const { settle } of [...sent.values(), ...waiting]) settle(false);
      sent.clear();
      waiting.length = 0;
    },
  };
}

const identified = (granted: Granted | undefined) =>
  granted?.subscriptionIdentifier === undefined ? {} : { subscriptionIdentifier: granted.subscriptionIdentifier };
