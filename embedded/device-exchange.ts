import { randomBytes } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { isRefusal, type Connection } from './device-connection.ts';

export type Reply = { accepted: Record<string, unknown> } | { rejected: { code: string; message: string } };

export type ExchangeDeps = {
  /** Ends what is being asked. */
  signal: AbortSignal;
  /** True when the next request is to get lost on its way. */
  loses: () => boolean;
  /** Milliseconds after which it asks again; doubled each time. */
  patienceMs: number;
};

export type Exchange = {
  /** Asks over this connection from now on. */
  attach(client: Connection): void;
  hear(topic: string, payload: Buffer): void;
  /** The connection over which it asks, once there is one. */
  connected(): Promise<Connection>;
  /**
   * Asks until there is a reply, over this connection or a later one. Under the same token it is the same request, which
   * the server answers as it did the first time.
   */
  ask(topic: string, request: object, token?: string): Promise<Reply>;
};

const patienceMaxMs = 60_000;
const passing = /Internal|Throttl|Unavailable|^429$|^5\d\d$/;

/** Requests and replies as AWS's Jobs and Shadow know them: `<topic>/accepted` or `/rejected`, told apart by `clientToken`. */
export function openExchange({ signal, loses, patienceMs }: ExchangeDeps): Exchange {
  const waiting = new Map<string, { topic: string; resolve: (reply: Reply) => void }>();
  const line = new EventEmitter<{ attached: [] }>();
  let client: Connection | undefined;

  async function connected(): Promise<Connection> {
    while (!client?.connected) await once(line, 'attached', { signal });
    return client;
  }

  async function askOnce(topic: string, payload: string, token: string, waitMs: number): Promise<Reply | undefined> {
    const over = await connected();
    const { promise, resolve } = Promise.withResolvers<Reply | undefined>();
    const timer = setTimeout(resolve, waitMs, undefined);
    const onClose = () => resolve(undefined);
    over.once('close', onClose);
    waiting.set(token, { topic, resolve });
    // MQTT 5 tells a refused publish by a reason code; any other trouble is the connection's, which is about to close.
    const fail = (error: unknown) => {
      if (isRefusal(error)) resolve({ rejected: { code: 'NotAuthorized', message: error.message } });
    };
    if (!loses()) over.publishAsync(topic, payload, { qos: 1 }).catch(fail);
    const reply = await promise;
    waiting.delete(token);
    over.off('close', onClose);
    clearTimeout(timer);
    return reply;
  }

  return {
    connected,
    attach(over) {
      client = over;
      line.emit('attached');
    },
    hear(topic, payload) {
      const { clientToken, ...body } = parseObject(payload);
      const [, request, how] = /^(.*)\/(accepted|rejected)$/.exec(topic) ?? [];
      const asked = typeof clientToken === 'string' ? waiting.get(clientToken) : undefined;
      if (!asked || asked.topic !== request) return;
      const { code, message } = body;
      asked.resolve(
        how === 'accepted' ? { accepted: body } : { rejected: { code: String(code), message: String(message) } },
      );
    },
    async ask(topic, request, token = randomBytes(12).toString('base64url')) {
      const payload = JSON.stringify({ ...request, clientToken: token });
      for (let waitMs = patienceMs; ; waitMs = Math.min(waitMs * 2, patienceMaxMs)) {
        const reply = await askOnce(topic, payload, token, waitMs);
        signal.throwIfAborted();
        if (reply && !('rejected' in reply && passing.test(reply.rejected.code))) return reply;
        if (reply) await pause(waitMs, undefined, { signal });
      }
    },
  };
}

/** What is no JSON object says nothing. */
export function parseObject(payload: Buffer): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(payload.toString());
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}
