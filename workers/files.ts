import { readFile } from 'node:fs/promises';
import { sql } from 'drizzle-orm';
import { listAuthorities } from '../db/authorities.ts';
import { connect } from '../db/client.ts';
import { probeSchema } from '../db/probes.ts';
import { createDownloads } from '../files/downloads.ts';
import { createFilesMetrics } from '../files/metrics.ts';
import { createPermissions } from '../files/permissions.ts';
import { createReadiness } from '../files/readiness.ts';
import { serveFiles } from '../files/server.ts';
import { serveMetrics } from '../gateway/metrics.ts';
import { createPeriodic } from '../gateway/periodic.ts';
import { openAddresses } from './addresses.ts';
import { filesConfig } from './config.ts';
import { createLog } from './log.ts';
import { openStore } from './store.ts';

/**
 * The process that devices fetch content from, apart from the one that holds their sessions. SIGTERM lets the downloads
 * under way end for a while; what is cut then is resumed from another.
 */
const config = filesConfig(process.env);
const log = createLog('files', config.logLevel);
const stopped = Promise.withResolvers<NodeJS.Signals>();
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, stopped.resolve);

const db = connect({ ...config.database, applicationName: 'longhaul files' });
const store = await openStore(config.store);
const addresses = await openAddresses({ base: '', keyFile: config.addressKeyFile, lifetimeSeconds: 0 });
const metrics = createFilesMetrics();
const permissions = createPermissions({ db });
const { downloadsMax, host, port, idleMs } = config;
const downloads = createDownloads({ addresses, permissions, store, metrics, log, downloadsMax });
const reviews = createPeriodic({
  name: 'reviewing the downloads',
  everyMs: config.reviewEveryMs,
  work: downloads.review,
  log,
});
const missing = createReadiness({
  postgres: async () => void (await db.execute(sql`select 1`)),
  schema: () => probeSchema(db),
  store: store.probe,
});
const server = await serveFiles({
  host,
  port,
  idleMs,
  downloads,
  missing,
  tls: config.tls && (await readTls(config.tls)),
});
const metricsServer = await serveMetrics({ host, port: config.metricsPort, registry: metrics.registry, missing });
log.info({ port: server.port, metrics: metricsServer.port, tls: config.tls !== undefined }, 'files are served');

log.info({ signal: await stopped.promise }, 'files are draining');
await server.drain(config.drainMs);
await reviews.stop();
await metricsServer.close();
await db.$client.end({ timeout: 5 });

async function readTls({ certificateFile, keyFile }: { certificateFile: string; keyFile: string }) {
  const [certificatePem, privateKeyPem, authorities] = await Promise.all([
    readFile(certificateFile, 'utf8'),
    readFile(keyFile, 'utf8'),
    listAuthorities(db),
  ]);
  return { certificatePem, privateKeyPem, authoritiesPem: authorities.map((authority) => authority.certificatePem) };
}
