import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';

export type Metrics = ReturnType<typeof createMetrics>;

/** What the gateway counts. Names carry their unit; labels come from closed lists. */
export function createMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const counter = <Label extends string>(name: string, help: string, labelNames: Label[] = []) =>
    new Counter({ name: `longhaul_gateway_${name}`, help, labelNames, registers: [registry] });
  return {
    registry,
    connects: counter('connects_total', 'CONNECTs by outcome', ['outcome']),
    closes: counter('closes_total', 'Ended sessions by reason', ['reason']),
    handshakesFailed: counter('handshakes_failed_total', 'TLS handshakes that failed or were cut off', ['reason']),
    publishes: counter('publishes_total', 'Publishes by outcome', ['outcome']),
    denied: counter('denied_total', 'Topics refused by action', ['action']),
    refusalsSuppressed: counter('refusals_suppressed_total', 'Refusals that the audit was spared'),
    quarantined: counter('quarantined_total', 'Reports that the database refused'),
    watchClock(aheadMs: () => number) {
      const collect = () => clock.set(aheadMs() / 1_000);
      const help = "How far this machine's clock is ahead of the database's";
      const clock: Gauge = new Gauge({
        name: 'longhaul_gateway_clock_ahead_seconds',
        help,
        registers: [registry],
        collect,
      });
    },
    watchConnections(count: () => number) {
      const collect = () => connections.set(count());
      const options = {
        name: 'longhaul_gateway_connections',
        help: 'Sessions held here',
        registers: [registry],
        collect,
      };
      const connections: Gauge = new Gauge(options);
    },
  };
}

export type MetricsServer = { port: number; close(): Promise<void> };

/** `/metrics` for a scraper, `/healthz`, and `/readyz` for a balancer, which gets what is missing with a 503. */
export async function serveMetrics(options: {
  host: string;
  port: number;
  registry: Registry;
  /** What is missing. */
  missing: () => string[] | Promise<string[]>;
}): Promise<MetricsServer> {
  const { host, port, registry, missing } = options;
  async function answer({ url }: IncomingMessage, response: ServerResponse): Promise<void> {
    if (url === '/metrics') {
      response.setHeader('content-type', registry.contentType);
      response.end(await registry.metrics());
    } else if (url === '/readyz') {
      const parts = await missing();
      response.writeHead(parts.length === 0 ? 200 : 503, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ ready: parts.length === 0, missing: parts }));
    } else if (url === '/healthz') {
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"status":"ok"}');
    } else {
      response.writeHead(404).end();
    }
  }

  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.writeHead(500).end());
  });
  server.listen({ host, port });
  await once(server, 'listening');
  return {
    // A server that listens on a port has an AddressInfo.
    port: (server.address() as AddressInfo).port,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
