import { Readable } from 'node:stream';

type ClientId = { id: string };

/** What the broker library asks about a session, answered by the listener: sessions are rows, and its memory is no queue. */
export type SessionSource = {
  /** The subscriptions of the session that this connection resumes; empty when it resumes none. */
  resumed: (clientId: string) => { topic: string; qos: 0 | 1 }[];
  unsubscribe: (clientId: string, filters: string[]) => Promise<void>;
};

const nothing = async () => {};

/**
 * The persistence interface of aedes over rows. It keeps nothing: subscriptions are written by the listener before the
 * SUBACK, what an offline device must get stands in the orders, wills are the listener's, and nothing is retained.
 */
export function rowsPersistence({ resumed, unsubscribe }: SessionSource) {
  return {
    setup: nothing,
    destroy: nothing,
    storeRetained: nothing,
    createRetainedStream: () => Readable.from([]),
    createRetainedStreamCombi: () => Readable.from([]),
    addSubscriptions: nothing,
    removeSubscriptions: ({ id }: ClientId, filters: string[]) => unsubscribe(id, filters),
    subscriptionsByClient: async ({ id }: ClientId) => resumed(id),
    subscriptionsByTopic: async () => [],
    cleanSubscriptions: nothing,
    countOffline: async () => ({ subsCount: 0, clientsCount: 0 }),
    outgoingEnqueue: nothing,
    outgoingEnqueueCombi: nothing,
    outgoingUpdate: nothing,
    outgoingClearMessageId: async (_: ClientId, packet: { messageId: number }) => ({ messageId: packet.messageId }),
    outgoingStream: () => Readable.from([]),
    incomingStorePacket: nothing,
    incomingGetPacket: () => Promise.reject(new Error('QoS 2 is not kept')),
    incomingDelPacket: nothing,
    putWill: nothing,
    getWill: nothing,
    delWill: nothing,
    streamWill: () => Readable.from([]),
    getClientList: () => Readable.from([]),
  };
}

/** In place of aedes's emitter: it routes nothing, from anybody to anybody. The listener delivers what is to be heard. */
export const noRouting = {
  on: (_topic: string, _listener: unknown, done?: () => void) => void (done && setImmediate(done)),
  removeListener: (_topic: string, _listener: unknown, done?: () => void) => void (done && setImmediate(done)),
  emit: (_packet: unknown, done?: () => void) => void (done && setImmediate(done)),
  close: (done?: () => void) => void (done && setImmediate(done)),
};
