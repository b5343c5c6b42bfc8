import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { initialise } from '../../embedded/initialise.ts';
import { keepNodeRunning, pidFileOf } from '../../embedded/node-parts.ts';
import { portNames, type PortName } from '../../embedded/options.ts';
import { environmentOf, host, namespace, serverName } from '../../embedded/parts.ts';
import { findRecorded } from '../../embedded/pid-files.ts';
import { freePort } from '../../embedded/ports.ts';
import { startPostgres } from '../../embedded/postgres.ts';
import { hasPoller, isReady } from '../../embedded/readiness.ts';
import { startTemporal } from '../../embedded/temporal.ts';
import { searchAttributes } from '../../workflows/search-attributes.ts';
import type { TlsFiles } from '../bare/tls.ts';
import type { Server } from '../load/mqtt.ts';
import { opened } from '../stack.ts';

/** The product's processes as `npm start` runs them, except that the gateway has a door without TLS besides. */
export type Parts = AsyncDisposable & {
  databaseUrl: string;
  api: { url: string; token: string };
  temporal: Client;
  temporalAddress: string;
  /** Where devices come in with TLS, and where without. */
  secure: Server;
  plain: Server;
  /** What the gateway shows its clients, for baselines to show too. */
  tls(authoritiesPem: string[]): Promise<TlsFiles>;
  /** By name: the product's own, then those that it stands on. */
  pids(): Promise<Record<PartName, number>>;
};

const ours = ['gateway', 'files', 'lifecycle', 'api'] as const;
export type PartName = (typeof ours)[number] | 'postgres' | 'temporal';

/** `lifecycle` is the worker's entry with its arguments. */
export async function startParts(dataDir: string, lifecycle = ['workers/lifecycle.ts']): Promise<Parts> {
  await using starting = new AsyncDisposableStack();
  const [postgres, temporal] = await Promise.all([
    startPostgres({ dataDir: join(dataDir, 'postgres'), port: 0 }),
    startTemporal({
      dataDir: join(dataDir, 'temporal-server'),
      port: 0,
      namespace,
      searchAttributes: Object.values(searchAttributes).map(({ name }) => name),
    }),
  ]);
  starting.use(postgres);
  starting.use(temporal);
  // Late, so that nobody takes them meanwhile.
  const ports = { ...(await choosePorts()), temporal: Number(temporal.address.split(':')[1]) };
  const metricsPorts = { gateway: await freePort(), files: await freePort() };
  const doorPort = await freePort();
  const env: NodeJS.ProcessEnv = {
    ...environmentOf({ dataDir, ports }, postgres.url),
    ...opened,
    GATEWAY_METRICS_PORT: String(metricsPorts.gateway),
    FILES_METRICS_PORT: String(metricsPorts.files),
  };
  const { administratorKey: token, rootCertificatePem: ca } = await initialise(dataDir, env);
  const connection = await Connection.connect({ address: temporal.address });
  starting.defer(() => connection.close());

  const { signal } = new AbortController();
  const start = async (name: string, [entry = '', ...args]: string[], ready: () => Promise<boolean>) =>
    void starting.use(await keepNodeRunning({ name, entry, args, env, dataDir, ready, signal }));
  const metrics = (port: number) => () => isReady(`http://${host}:${port}/readyz`);
  const url = `http://${host}:${ports.api}`;
  await start('api', ['api/server.ts'], () => isReady(`${url}/readyz`));
  await start('files', ['workers/files.ts'], metrics(metricsPorts.files));
  await start('gateway', ['bench/gateway.ts', String(doorPort)], metrics(metricsPorts.gateway));
  await start('lifecycle', lifecycle, () => hasPoller(connection, namespace, env['LONGHAUL_TASK_QUEUE'] ?? ''));

  const up = starting.move();
  const pidOf = async (name: string) => [name, await findRecorded(pidFileOf(dataDir, name))];
  return {
    databaseUrl: postgres.url,
    api: { url, token },
    temporal: new Client({ connection, namespace }),
    temporalAddress: temporal.address,
    secure: { host, port: ports.mqtt, serverName, ca },
    plain: { host, port: doorPort, serverName, ca },
    tls: async (authoritiesPem) => ({
      certificatePem: await readFile(join(dataDir, 'gateway-certificate.pem'), 'utf8'),
      privateKeyPem: await readFile(join(dataDir, 'gateway-key.pem'), 'utf8'),
      authoritiesPem,
    }),
    async pids() {
      const own = Object.fromEntries(await Promise.all(ours.map(pidOf)));
      return { ...own, postgres: postgres.pid, temporal: temporal.pid };
    },
    [Symbol.asyncDispose]: () => up.disposeAsync(),
  };
}

async function choosePorts(): Promise<Record<PortName, number>> {
  const chosen: Partial<Record<PortName, number>> = {};
  for (const name of portNames) chosen[name] = await freePort();
  // Every name was given one.
  return chosen as Record<PortName, number>;
}
