import { readFile } from 'node:fs/promises';
import { listAuthorities } from '../db/authorities.ts';
import { connect } from '../db/client.ts';
import { listTrustAnchors } from '../db/manufacturer-authorities.ts';
import { doubtsCommit } from '../db/outcomes.ts';
import { startGateway, type Gateway, type GatewayDeps } from '../gateway/gateway.ts';
import { serveMetrics } from '../gateway/metrics.ts';
import { openAddresses } from './addresses.ts';
import { gatewayConfig } from './config.ts';
import { createLog } from './log.ts';
import { openOrderSigner } from './order-keys.ts';
import { connectTemporal } from './temporal.ts';
import { openWire } from './wire.ts';

/**
 * The process that devices talk to, from its environment to its end: SIGTERM commits what was read, sends the devices
 * elsewhere, and ends it. `more` is for a gateway that is measured; no environment reaches it.
 */
export async function runGateway(more: Partial<GatewayDeps> = {}): Promise<void> {
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
  const addresses = await openAddresses(config.addresses);
  const {
    host,
    port,
    extraPort,
    limits,
    sweepEveryMs,
    presenceDebounceMs: debounceMs,
    beatEveryMs,
    deadAfterMs,
  } = config;
  gateway = await startGateway({
    db,
    wire,
    temporal,
    log,
    host,
    port,
    extraPort,
    limits,
    sweepEveryMs,
    debounceMs,
    beatEveryMs,
    deadAfterMs,
    tls: {
      certificatePem: await readFile(config.certificateFile, 'utf8'),
      privateKeyPem: await readFile(config.keyFile, 'utf8'),
      authoritiesPem: await listTrustAnchors(db),
      ticketKeys: config.ticketKeysFile === undefined ? undefined : await readTicketKeys(config.ticketKeysFile),
    },
    forbiddenSpki: authorities.map(({ spkiSha256 }) => spkiSha256),
    signAddress: addresses.sign,
    signOrder: await openOrderSigner(db, config.orders),
    ...more,
  });
  const { registry } = gateway.metrics;
  const server = await serveMetrics({ host, port: config.metricsPort, registry, missing: gateway.missing });
  log.info({ gateway: gateway.id, port: gateway.listener.port, metrics: server.port }, 'gateway is ready');

  log.info({ signal: await stopped.promise }, 'gateway is draining');
  await gateway.drain();
  await server.close();
  await wire[Symbol.asyncDispose]();
  await db.$client.end({ timeout: 5 });
}

async function readTicketKeys(file: string): Promise<Buffer> {
  const keys = Buffer.from((await readFile(file, 'utf8')).trim(), 'base64');
  if (keys.length !== 48) throw new Error(`the keys in ${file} are not 48 bytes in base64`);
  return keys;
}
