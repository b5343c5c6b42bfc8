import { readFile } from 'node:fs/promises';
import { listAuthorities } from '../db/authorities.ts';
import { connect } from '../db/client.ts';
import { doubtsCommit } from '../db/outcomes.ts';
import { startGateway, type Gateway } from '../gateway/gateway.ts';
import { serveMetrics } from '../gateway/metrics.ts';
import { gatewayConfig } from '../workers/config.ts';
import { createLog } from '../workers/log.ts';
import { connectTemporal } from '../workers/temporal.ts';
import { openWire } from '../workers/wire.ts';
import { readFingerprint } from './door.ts';

/** `workers/gateway.ts` with a door besides that needs no TLS, on 127.0.0.1 and the port that is its argument. */
const config = gatewayConfig(process.env);
const log = createLog('gateway', config.logLevel);
const stopped = Promise.withResolvers<NodeJS.Signals>();
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, stopped.resolve);

let gateway: Gateway | undefined;
const db = connect({
  ...config.database,
  applicationName: 'longhaul gateway',
  onNotice: (notice) => void (doubtsCommit(notice) && gateway?.availability.doubt()),
});
const wire = await openWire({ wire: config.wire, directUrl: config.databaseDirectUrl });
await using temporal = connectTemporal({ taskQueue: config.taskQueue });
const authorities = await listAuthorities(db);
const { presenceDebounceMs: debounceMs, certificateFile, keyFile, ...options } = config;
gateway = await startGateway({
  ...options,
  db,
  wire,
  temporal,
  log,
  debounceMs,
  plainDoor: { port: Number(process.argv[2]), identify: readFingerprint },
  tls: {
    certificatePem: await readFile(certificateFile, 'utf8'),
    privateKeyPem: await readFile(keyFile, 'utf8'),
    authoritiesPem: authorities.map(({ certificatePem }) => certificatePem),
  },
  forbiddenSpki: authorities.map(({ spkiSha256 }) => spkiSha256),
});
const { registry } = gateway.metrics;
const { host, metricsPort: port } = config;
const server = await serveMetrics({ host, port, registry, missing: gateway.missing });

await stopped.promise;
await gateway.drain();
await server.close();
await wire[Symbol.asyncDispose]();
await db.$client.end({ timeout: 5 });
