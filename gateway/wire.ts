import type Postgres from 'postgres';
import { postgres } from '../db/postgres.ts';

/** Something that a gateway finds out by itself, only later. `orders` are device ids. */
export type Hint =
  | { orders: string[] }
  | { close: { identityKey: string; clientId?: string; epochBelow?: number } }
  | { feed: true }
  | { trust: true }
  | { events: true }
  | { outbox: true };

/** Hints between processes. Each may be lost, come twice or come late; nothing may depend on one. */
export type Wire = {
  /** After the commit. Returns at once. */
  tell(hint: Hint): void;
  hear(handler: (hint: Hint) => void): void;
  [Symbol.asyncDispose](): Promise<void>;
};

const channel = 'longhaul';
/** NOTIFY takes less than 8,000 bytes; device ids are 39 bytes each in JSON. */
const orderIdsMax = 150;
const waitingMax = 1_000;
const reconnectMs = 500;
const answerWithinMs = 3_000;

/** Hints over NOTIFY, each way on a connection of its own. It must not be a pooler's: LISTEN there is silently deaf. */
export async function postgresWire({ directUrl }: { directUrl: string }): Promise<Wire> {
  const handlers: ((hint: Hint) => void)[] = [];
  const talker = createTalker(directUrl);
  const listener = createListener(directUrl, (payload) => {
    const hint = readHint(payload);
    if (hint) for (const handler of handlers) handler(hint);
  });
  await listener.listening.catch(async (error: unknown) => {
    await listener.end();
    throw error;
  });
  return {
    tell: (hint) => split(hint).forEach((part) => talker.say(JSON.stringify(part))),
    hear: (handler) => void handlers.push(handler),
    async [Symbol.asyncDispose]() {
      await Promise.all([talker.end(), listener.end()]);
    },
  };
}

/** What cannot be said in time is lost, with its connection: a query on a broken one may never be answered. */
function createTalker(url: string) {
  let connection = open(url);
  let waiting: string[] = [];
  let flushing: Promise<void> | undefined;

  async function flush(): Promise<void> {
    while (waiting.length > 0) {
      const payloads = waiting;
      waiting = [];
      const said = connection`select pg_notify(${channel}, p) from unnest(${payloads}::text[]) p`;
      if (await succeedsWithin(said, answerWithinMs)) continue;
      void connection.end({ timeout: 0 });
      connection = open(url);
    }
    flushing = undefined;
  }

  return {
    say(payload: string): void {
      if (waiting.length >= waitingMax) return;
      waiting.push(payload);
      flushing ??= flush();
    },
    async end(): Promise<void> {
      await flushing;
      await connection.end({ timeout: 1 });
    },
  };
}

/** Listens, and again on a new connection whenever the old one is gone. */
function createListener(url: string, receive: (payload: string) => void) {
  const first = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  let connection: Postgres.Sql | undefined;
  let stopped = false;

  async function run(): Promise<void> {
    while (!stopped) {
      const lost = Promise.withResolvers<void>();
      connection = open(url, receive, lost.resolve);
      const listening = connection`listen ${connection(channel)}`;
      if (await succeedsWithin(listening, answerWithinMs)) {
        first.resolve();
        await lost.promise;
      }
      first.reject(new Error('Postgres cannot be listened to'));
      void connection.end({ timeout: 0 });
      if (!stopped) await new Promise((resolve) => setTimeout(resolve, reconnectMs));
    }
    ended.resolve();
  }

  void run();
  return {
    /** Rejects when the first attempt failed. */
    listening: first.promise,
    async end(): Promise<void> {
      stopped = true;
      await connection?.end({ timeout: 1 });
      await ended.promise;
    },
  };
}

const open = (url: string, onnotify?: (payload: string) => void, onclose?: () => void) =>
  postgres(url, {
    max: 1,
    idle_timeout: 0,
    max_lifetime: null,
    connect_timeout: answerWithinMs / 1_000,
    backoff: () => reconnectMs / 1_000,
    connection: { application_name: 'longhaul wire' },
    onnotice: () => {},
    ...(onclose && { onclose }),
    // The library's own `listen` hides that its connection was lost, and sometimes does not come back.
    ...(onnotify && { onnotify: (_: string, payload: string) => onnotify(payload) }),
  });

async function succeedsWithin(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const success = work.then(
    () => true,
    () => false,
  );
  const limit = new Promise<boolean>((resolve) => (timer = setTimeout(() => resolve(false), ms)));
  return Promise.race([success, limit]).finally(() => clearTimeout(timer));
}

function readHint(payload: string): Hint | undefined {
  try {
    // Only this file writes to the channel; what is not even JSON was sent by hand, and a hint may be lost.
    return JSON.parse(payload) as Hint;
  } catch {
    return undefined;
  }
}

function split(hint: Hint): Hint[] {
  if (!('orders' in hint)) return [hint];
  const parts: Hint[] = [];
  for (let start = 0; start < hint.orders.length; start += orderIdsMax) {
    parts.push({ orders: hint.orders.slice(start, start + orderIdsMax) });
  }
  return parts;
}

/** Hints within one process. */
export function localWire(): Wire {
  const handlers: ((hint: Hint) => void)[] = [];
  return {
    tell: (hint) => queueMicrotask(() => handlers.forEach((handler) => handler(hint))),
    hear: (handler) => void handlers.push(handler),
    [Symbol.asyncDispose]: async () => {},
  };
}

/** Loses every hint: what works with it works. */
export const deafWire = (): Wire => ({ tell() {}, hear() {}, [Symbol.asyncDispose]: async () => {} });
