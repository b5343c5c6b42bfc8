import { once } from 'node:events';
import { request, type Agent, type RequestOptions } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { pino } from 'pino';
import { createDoors, type DoorsDeps } from '../../doors/app.ts';
import { createDoorsMetrics } from '../../doors/metrics.ts';
import { serveDoors, type DoorsServerOptions } from '../../doors/server.ts';
import type { Credentials } from '../support/gateway.ts';
import type { Rig } from './rig.ts';

export type Asking = {
  headers?: Record<string, string>;
  body?: string | Buffer;
  credentials?: Pick<Credentials, 'certificate' | 'privateKey'>;
  /** Keeps connections, and TLS sessions, between requests. */
  agent?: Agent;
};

export type Served = Awaited<ReturnType<typeof serveTestDoors>>;

/** The doors over real TLS on a free port of this machine, before the rig's lifecycles. */
export async function serveTestDoors(
  { db, temporal, fleet }: Rig,
  { server = {}, ...deps }: Partial<DoorsDeps> & { server?: Partial<DoorsServerOptions> } = {},
) {
  const metrics = createDoorsMetrics();
  const reported: unknown[] = [];
  const app = createDoors({
    db,
    temporal,
    metrics,
    probes: { postgres: async () => {}, schema: async () => {}, temporal: async () => {} },
    log: pino({ level: 'silent' }),
    mayAsk: () => true,
    report: (error) => void reported.push(error),
    // A loaded machine shall not answer "later" where a test asks for an answer.
    answerWithinMs: 30_000,
    ...deps,
  });
  const { port, drain, trust } = await serveDoors({
    app,
    host: '127.0.0.1',
    port: 0,
    connectionsMax: 1_000,
    mayConnect: () => true,
    metrics,
    tls: { ...fleet.server, authoritiesPem: [fleet.authority.rootPem, fleet.authority.certificatePem] },
    ...server,
  });
  const ca = fleet.authority.rootPem;

  function open(method: string, path: string, { headers, body, credentials, agent }: Asking = {}) {
    const options: RequestOptions = { method, host: '127.0.0.1', servername: 'localhost', port, path, ca };
    const tls = credentials && { cert: credentials.certificate, key: credentials.privateKey };
    const sent = request({ ...options, ...tls, headers: headers ?? {}, agent: agent ?? false });
    sent.end(body);
    return sent;
  }

  async function ask(method: string, path: string, asking?: Asking) {
    const [response] = (await once(open(method, path, asking), 'response')) as [IncomingMessage];
    const body = await text(response);
    return { status: response.statusCode, headers: response.headers, body };
  }

  /** `POST /v1/enroll`, with its answer as an object. */
  async function enrol(token: string, asked: object, asking: Asking = {}) {
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...asking.headers };
    const { body, ...rest } = await ask('POST', '/v1/enroll', { ...asking, headers, body: JSON.stringify(asked) });
    return { ...rest, body: JSON.parse(body) };
  }

  return {
    port,
    trust,
    ca,
    metrics,
    reported,
    open,
    ask,
    enrol,
    [Symbol.asyncDispose]: () => drain(1_000),
  };
}
