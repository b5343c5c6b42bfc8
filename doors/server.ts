import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import type { DoorsApp } from './app.ts';
import type { DoorsMetrics } from './metrics.ts';

export type DoorsServer = {
  port: number;
  /** From the next handshake on, takes certificates of these authorities (PEM) for proven; open connections stay. */
  trust(authoritiesPem: string[]): void;
  /** Accepts nobody new, answers what was asked, and cuts the rest after so long. */
  drain(withinMs: number): Promise<void>;
};

export type DoorsServerOptions = {
  app: DoorsApp;
  host: string;
  /** 0 for any free one. */
  port: number;
  tls: { certificatePem: string; privateKeyPem: string; authoritiesPem: string[] };
  /** Whether somebody at this address may open another connection now. */
  mayConnect: (address: string) => boolean;
  connectionsMax: number;
  metrics: Pick<DoorsMetrics, 'handshakesFailed'>;
};

const handshakeWithinMs = 15_000;
const headersWithinMs = 10_000;
const requestWithinMs = 30_000;
const keepAliveMs = 10_000;
const requestsPerConnectionMax = 100;

/**
 * Serves HTTPS to devices. A client certificate is asked for and need not be there, and a handshake proves no more than
 * that its key is: what a certificate is good for, its row says, or that of its manufacturer's authority, at each request, so
 * also where the TLS session was resumed.
 */
export async function serveDoors(options: DoorsServerOptions): Promise<DoorsServer> {
  const { app, host, port, tls, mayConnect, connectionsMax, metrics } = options;
  const listening = createAdaptorServer({
    fetch: app.fetch,
    createServer,
    serverOptions: {
      ...contextOf(tls),
      requestCert: true,
      rejectUnauthorized: false,
      handshakeTimeout: handshakeWithinMs,
      headersTimeout: headersWithinMs,
      requestTimeout: requestWithinMs,
      keepAliveTimeout: keepAliveMs,
      maxHeaderSize: 16 * 1024,
    },
  });
  // What node:https makes is what `createServer` above is.
  const server = listening as Server;
  server.maxConnections = connectionsMax;
  server.maxRequestsPerSocket = requestsPerConnectionMax;
  server.prependListener('connection', (socket: Socket) => {
    if (mayConnect(socket.remoteAddress ?? '')) return;
    metrics.handshakesFailed.inc({ reason: 'rate' });
    socket.destroy();
  });
  server.on('tlsClientError', () => metrics.handshakesFailed.inc({ reason: 'handshake' }));
  server.listen({ host, port });
  await once(server, 'listening');
  return {
    // A server that listens on a port has an AddressInfo.
    port: (server.address() as AddressInfo).port,
    trust: (authoritiesPem) => server.setSecureContext(contextOf({ ...tls, authoritiesPem })),
    drain: (withinMs) => drain(server, withinMs),
  };
}

const contextOf = ({ certificatePem, privateKeyPem, authoritiesPem }: DoorsServerOptions['tls']) => ({
  cert: certificatePem,
  key: privateKeyPem,
  ca: authoritiesPem,
  minVersion: 'TLSv1.2' as const,
  // A session resumes in its context only: not at a server that looks at certificates otherwise.
  sessionIdContext: 'longhaul doors',
});

async function drain(server: Server, withinMs: number): Promise<void> {
  const closed = once(server, 'close');
  server.close();
  const cut = setTimeout(() => server.closeAllConnections(), withinMs);
  await closed;
  clearTimeout(cut);
}
