import { readFile } from 'node:fs/promises';
import { DrizzleQueryError } from 'drizzle-orm';
import { createProbes } from '../api/probes.ts';
import { listAuthorities } from '../db/authorities.ts';
import { connect } from '../db/client.ts';
import { listTrustAnchors } from '../db/manufacturer-authorities.ts';
import { createDoors } from '../doors/app.ts';
import { createDoorsMetrics } from '../doors/metrics.ts';
import { serveDoors } from '../doors/server.ts';
import { createReadiness } from '../files/readiness.ts';
import { serveMetrics } from '../gateway/metrics.ts';
import { createBuckets } from '../gateway/throttle.ts';
import { followTrust } from '../gateway/trust.ts';
import { doorsConfig } from './config.ts';
import { createLog } from './log.ts';
import { connectTemporal } from './temporal.ts';
import { openWire } from './wire.ts';

/**
 * The process that devices enrol at over HTTPS, with the files that say what is trusted and revoked. It holds no key of an
 * authority: lifecycles issue. SIGTERM answers what was asked and ends it.
 */
const drainMs = 10_000;
const trustEveryMs = 15_000;
const config = doorsConfig(process.env);
const log = createLog('doors', config.logLevel);
const stopped = Promise.withResolvers<NodeJS.Signals>();
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, stopped.resolve);

const db = connect({ ...config.database, applicationName: 'longhaul doors' });
const wire = await openWire({ wire: config.wire, directUrl: config.databaseDirectUrl });
await using temporal = connectTemporal({ taskQueue: config.taskQueue });
await using probes = createProbes(db, temporal.client);
const { postgres, schema, temporal: lifecycles } = probes;
const missing = createReadiness({ postgres, schema, temporal: lifecycles });
const authorities = await listAuthorities(db);
const metrics = createDoorsMetrics();
const requests = createBuckets(config.requestsPerSecondPerAddress);
const connections = createBuckets(config.requestsPerSecondPerAddress);
const app = createDoors({
  db,
  temporal,
  probes,
  metrics,
  log,
  forbiddenSpki: authorities.map(({ spkiSha256 }) => spkiSha256),
  mayAsk: requests.take,
  // A query's own message holds its parameters, which may be somebody's data: the cause says what was wrong with it.
  report: (error) => log.error({ err: error instanceof DrizzleQueryError ? error.cause : error }, 'unexpected error'),
});
const { host, port, connectionsMax } = config;
const server = await serveDoors({
  app,
  host,
  port,
  connectionsMax,
  metrics,
  mayConnect: connections.take,
  tls: {
    certificatePem: await readFile(config.certificateFile, 'utf8'),
    privateKeyPem: await readFile(config.keyFile, 'utf8'),
    authoritiesPem: await listTrustAnchors(db),
  },
});
const trust = followTrust({ db, log, everyMs: trustEveryMs, trust: server.trust });
wire.hear((hint) => 'trust' in hint && trust.wake());
const metricsServer = await serveMetrics({ host, port: config.metricsPort, registry: metrics.registry, missing });
log.info({ port: server.port, metrics: metricsServer.port }, 'the doors are open');

log.info({ signal: await stopped.promise }, 'the doors are draining');
await server.drain(drainMs);
await metricsServer.close();
await trust.stop();
await wire[Symbol.asyncDispose]();
await db.$client.end({ timeout: 5 });
