import { request as requestPlain } from 'node:http';
import { request as requestTls, type RequestOptions } from 'node:https';
import { isIP } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { createDestinations, type Destination, type DestinationRules } from './destinations.ts';

export type WebhookRules = DestinationRules & {
  /** From the first look at the name to the last byte of the answer. */
  withinMs?: number | undefined;
  answerBytesMax?: number | undefined;
  /** Instead of the authorities that Node trusts. */
  ca?: string | undefined;
};

export type Call = {
  url: string;
  /** `whsec_…` */
  secret: string;
  /** The same for a repeated call: the receiver may answer it from memory. */
  id: string;
  body: object;
};

/** There was no answer that counts. The message says why, in words of ours. */
export class WebhookFailed extends Error {
  override name = 'WebhookFailed';
}

/**
 * Calls a webhook, signed by Standard Webhooks (https://www.standardwebhooks.com), and returns the JSON of a 200. Anything
 * else throws `WebhookFailed` or `ForbiddenDestination`: a redirect is not followed, an answer that is too long or too
 * slow is cut off, and the connection goes to the address that was judged.
 */
export function createWebhooks({ withinMs = 5_000, answerBytesMax = 64 * 1024, ca, ...rules }: WebhookRules) {
  const findDestination = createDestinations(rules);

  return async ({ url, secret, id, body }: Call): Promise<unknown> => {
    const signal = AbortSignal.timeout(withinMs);
    const destination = await Promise.race([findDestination(url), whenAborted(signal)]);
    const payload = JSON.stringify(body);
    const at = new Date();
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(payload),
      'user-agent': 'longhaul',
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
      'webhook-signature': new Webhook(secret).sign(id, at, payload),
    };
    return parse(await post(destination, { headers, payload, signal, answerBytesMax, ca }));
  };
}

type Post = {
  headers: Record<string, string | number>;
  payload: string;
  signal: AbortSignal;
  answerBytesMax: number;
  ca?: string | undefined;
};

function post(
  { url, address, family }: Destination,
  { headers, payload, signal, answerBytesMax, ca }: Post,
): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const hostname = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const options: RequestOptions = {
    method: 'POST',
    host: address,
    family,
    port: url.port || (url.protocol === 'https:' ? 443 : 80),
    path: url.pathname + url.search,
    headers: { ...headers, host: url.host },
    agent: false,
    signal,
    ...(isIP(hostname) ? {} : { servername: hostname }),
    ...(ca !== undefined && { ca }),
  };
  const fail = (why: string) => reject(new WebhookFailed(why));
  const sending = (url.protocol === 'https:' ? requestTls : requestPlain)(options, (response) => {
    const parts: Buffer[] = [];
    let size = 0;
    if (response.statusCode !== 200) {
      fail(`it answered ${response.statusCode}`);
      return void response.destroy();
    }
    response.on('data', (part: Buffer) => {
      size += part.length;
      parts.push(part);
      if (size <= answerBytesMax) return;
      fail('its answer is too long');
      response.destroy();
    });
    response.on('end', () => resolve(Buffer.concat(parts)));
    response.on('error', () => fail('its answer broke off'));
    return undefined;
  });
  sending.on('error', () => fail(signal.aborted ? 'it took too long' : 'it could not be reached'));
  sending.end(payload);
  return promise;
}

function whenAborted(signal: AbortSignal): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  signal.addEventListener('abort', () => reject(new WebhookFailed('it took too long')), { once: true });
  return promise;
}

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    throw new WebhookFailed('its answer is not JSON');
  }
}
