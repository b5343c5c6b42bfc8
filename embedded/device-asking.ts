import type { Connection } from './device-connection.ts';

/** The fleet answered with no. */
export class CertificateRefused extends Error {
  override name = 'CertificateRefused';
  readonly code: string;

  constructor(code: string, message: string) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

const patienceMs = 15_000;

/** Publishes a request for a certificate, or what goes with one, and waits for the one answer. It carries no token, so one is asked at a time. */
export async function ask(client: Connection, topic: string, request: object): Promise<Record<string, unknown>> {
  const { promise, resolve, reject } = Promise.withResolvers<Record<string, unknown>>();
  const hear = (answered: string, payload: Buffer) => {
    // The contract's answers are JSON objects; one that is not fails, and is tried again.
    if (!answered.startsWith(`${topic}/`)) return;
    const body: Record<string, unknown> = JSON.parse(payload.toString());
    if (answered.endsWith('/accepted')) return resolve(body);
    const { errorCode, errorMessage } = body;
    reject(new CertificateRefused(String(errorCode), String(errorMessage)));
  };
  const cut = () => reject(new Error('the connection ended before the answer'));
  const timer = setTimeout(() => reject(new Error(`no answer on ${topic} in ${patienceMs} ms`)), patienceMs);
  client.on('message', hear).once('close', cut);
  try {
    await client.subscribeAsync([`${topic}/accepted`, `${topic}/rejected`], { qos: 1 });
    await client.publishAsync(topic, JSON.stringify(request), { qos: 1 });
    return await promise;
  } finally {
    promise.catch(() => {});
    clearTimeout(timer);
    client.off('message', hear).off('close', cut);
  }
}
