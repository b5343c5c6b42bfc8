import { once } from 'node:events';
import { createServer as createPlainServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { refuse } from './answers.ts';
import type { Downloads } from './downloads.ts';

export type FilesServer = {
  port: number;
  /** Accepts nobody new, lets the downloads under way end for so long, and cuts the others: devices resume elsewhere. */
  drain(withinMs: number): Promise<void>;
};

export type FilesServerOptions = {
  host: string;
  /** 0 for any free one. */
  port: number;
  /** Without it the server speaks plain HTTP, to a proxy that ends TLS. */
  tls: Tls | undefined;
  /** A client that takes nothing for so long is cut off. */
  idleMs: number;
  downloads: Pick<Downloads, 'answer'>;
  /** What is missing for it to be of use. */
  missing: () => Promise<string[]>;
};

export type Tls = { certificatePem: string; privateKeyPem: string; authoritiesPem: string[] };

const handshakeWithinMs = 15_000;
const headersWithinMs = 15_000;

/**
 * Serves files to devices, with `/healthz` and `/readyz` for a balancer. A client may show a certificate and need not: its
 * address says who it is, and a certificate may only confirm it.
 */
export async function serveFiles({ host, port, tls, idleMs, downloads, missing }: FilesServerOptions) {
  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url?.split('?', 1)[0] ?? '';
    if (path === '/healthz') sayJson(response, 200, { status: 'ok' });
    else if (path === '/readyz') await sayWhetherReady(response, missing);
    else if (path.startsWith('/artifacts/')) await downloads.answer(request, response);
    else refuse(response, 'not-found');
  }

  const listener = (request: IncomingMessage, response: ServerResponse) => {
    answer(request, response).catch(() => response.destroy());
  };
  const timeouts = { headersTimeout: headersWithinMs, requestTimeout: 2 * headersWithinMs, keepAlive: true };
  const server = tls
    ? createTlsServer({ ...timeouts, ...tlsOptions(tls) }, listener)
    : createPlainServer(timeouts, listener);
  server.timeout = idleMs;
  server.listen({ host, port });
  await once(server, 'listening');
  return {
    // A server that listens on a port has an AddressInfo.
    port: (server.address() as AddressInfo).port,
    drain: (withinMs: number) => drain(server, withinMs),
  } satisfies FilesServer;
}

const tlsOptions = ({ certificatePem, privateKeyPem, authoritiesPem }: Tls) => ({
  cert: certificatePem,
  key: privateKeyPem,
  ca: authoritiesPem,
  minVersion: 'TLSv1.2' as const,
  requestCert: true,
  rejectUnauthorized: false,
  handshakeTimeout: handshakeWithinMs,
});

async function sayWhetherReady(response: ServerResponse, missing: () => Promise<string[]>): Promise<void> {
  const parts = await missing();
  sayJson(response, parts.length === 0 ? 200 : 503, { ready: parts.length === 0, missing: parts });
}

function sayJson(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
}

async function drain(server: Server, withinMs: number): Promise<void> {
  const closed = once(server, 'close');
  // What has no request under way is closed at once, and the others when theirs has ended.
  server.close();
  const cut = setTimeout(() => server.closeAllConnections(), withinMs);
  await closed;
  clearTimeout(cut);
}
