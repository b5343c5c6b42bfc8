import { isFilter } from './filters.ts';
import type { Connection } from './connections.ts';
import type { Limits } from './limits.ts';
import type { Hooks } from './messages.ts';

/** One filter that a client asks for. */
export type Filter = { topic: string; qos: 0 | 1 | 2; subscriptionIdentifier?: number };

/** Says whether the filter is granted. Never called when the connection ends instead. */
export type Answer = (granted: boolean) => void;

type Asking = { filter: Filter; answer: Answer };

/**
 * Decides over filters. Those that arrive in the same turn of the event loop, which are those of one SUBSCRIBE, are
 * written together; none is granted before its row stands.
 */
export function createSubscribing(hooks: Hooks, limits: Limits) {
  const asking = new WeakMap<Connection, Asking[]>();

  async function settle(connection: Connection, asked: Asking[]): Promise<void> {
    const { session, subscriptions } = connection;
    if (!session || connection.reason !== undefined) return;
    const granted = new Map<string, Filter>();
    for (const { filter } of asked) {
      const known = subscriptions.has(filter.topic) || granted.has(filter.topic);
      const detail = refuse(connection, filter.topic, known ? 0 : subscriptions.size + granted.size + 1);
      if (detail) hooks.denied(session, 'subscribe', filter.topic, detail);
      else granted.set(filter.topic, filter);
    }
    if (granted.size > 0) {
      const rows = [...granted.values()].map(({ topic, qos }) => [topic, qos === 0 ? 0 : 1] as const);
      try {
        await hooks.subscribing(session, Object.fromEntries(rows));
      } catch {
        return connection.end('SERVER_ERROR');
      }
      for (const [topic, qos] of rows) {
        subscriptions.set(topic, { qos, subscriptionIdentifier: granted.get(topic)?.subscriptionIdentifier });
      }
    }
    // Once it is ending, what it asked last is not worth an answer.
    if (connection.reason === undefined) for (const { filter, answer } of asked) answer(granted.has(filter.topic));
  }

  function refuse({ session }: Connection, topic: string, count: number): string | undefined {
    if (count > limits.subscriptionsMax) return `more than ${limits.subscriptionsMax} subscriptions`;
    if (!session || !isFilter(topic) || !hooks.may(session, 'subscribe', topic)) return 'not permitted';
    return undefined;
  }

  return {
    /** A filter of a SUBSCRIBE, or of the session that the CONNECT resumes. */
    ask(connection: Connection, filter: Filter, answer: Answer): void {
      if (!connection.accepted) {
        // Resumed, and a row already; what may be heard may have changed since.
        const { session } = connection;
        const permitted = session !== undefined && hooks.may(session, 'subscribe', filter.topic);
        if (!permitted) connection.subscriptions.delete(filter.topic);
        return answer(permitted);
      }
      const gathered = asking.get(connection);
      if (gathered) {
        gathered.push({ filter, answer });
        return undefined;
      }
      const asked = [{ filter, answer }];
      asking.set(connection, asked);
      queueMicrotask(() => {
        asking.delete(connection);
        void settle(connection, asked);
      });
      return undefined;
    },

    async withdraw(connection: Connection, filters: string[]): Promise<void> {
      const held = filters.filter((filter) => connection.subscriptions.delete(filter));
      if (connection.session && held.length > 0) await hooks.unsubscribing(connection.session, held);
    },
  };
}
