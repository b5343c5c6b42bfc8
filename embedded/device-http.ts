import { get as getPlain, type IncomingMessage } from 'node:http';
import { get as getSecure } from 'node:https';

/**
 * The head of the answer, of the whole or from one byte on; its body is read as a stream, which fails when the connection
 * ends before it.
 */
export type Fetch = (address: string, from?: number) => Promise<IncomingMessage>;

export type FetchDeps = {
  /** The roots, PEM, that the device trusts now, and no others. */
  ca: () => string;
  /** Waits for the network, and gives what aborts when it is gone again. */
  inReach: () => Promise<AbortSignal>;
};

const idleMaxMs = 30_000;

export function fetchOver({ ca, inReach }: FetchDeps): Fetch {
  return async (address, from = 0) => {
    const signal = await inReach();
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const headers = from > 0 ? { range: `bytes=${from}-` } : {};
    const options = { headers, signal, agent: false, timeout: idleMaxMs } as const;
    const request = address.startsWith('https:')
      ? getSecure(address, { ...options, ca: ca() }, resolve)
      : getPlain(address, options, resolve);
    request.once('timeout', () => request.destroy(new Error(`nothing was heard for ${idleMaxMs} ms`)));
    request.on('error', reject);
    return promise;
  };
}
