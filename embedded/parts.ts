import { join } from 'node:path';
import { openConnection } from '../workers/temporal.ts';
import { searchAttributes } from '../workflows/search-attributes.ts';
import type { Api } from './api-requests.ts';
import { say, warn } from './console.ts';
import { ensureReleaseKey, listOrderKeys } from './demonstration.ts';
import { keepNodeRunning, pidFileOf, rootFolder } from './node-parts.ts';
import type { PortName } from './options.ts';
import { stopRecorded } from './pid-files.ts';
import { freePort } from './ports.ts';
import { startPostgres, type RunningPostgres } from './postgres.ts';
import { keepRunning } from './processes.ts';
import { hasPoller, isReady, shakesHands } from './readiness.ts';
import { stackFileOf } from './stack-file.ts';
import { startTemporal, type RunningTemporal } from './temporal.ts';

export type PartsDeps = {
  /** Holds what has come up, and ends it in the reverse order. */
  up: AsyncDisposableStack;
  dataDir: string;
  ports: Record<PortName, number>;
  /** Cuts the waiting for a part that is starting. */
  signal: AbortSignal;
};

export const host = '127.0.0.1';
export const serverName = 'localhost';
export const namespace = 'default';
const taskQueue = 'longhaul';

export const filesUrlOf = (ports: PartsDeps['ports']): string => `https://${host}:${ports.files}`;
export const uiUrlOf = (ports: PartsDeps['ports']): string => `http://${host}:${ports.ui}`;

export const administratorKeyFileOf = (dataDir: string): string => join(dataDir, 'administrator-key');
const postgresFolder = (dataDir: string) => join(dataDir, 'postgres');
/** Not `temporal`: in the default data folder that is the program. */
const temporalFolder = (dataDir: string) => join(dataDir, 'temporal-server');

/** What a supervisor that was killed has left running is ended, in the order of a proper stop. */
export async function endLeftovers(dataDir: string): Promise<void> {
  const withinMs = 10_000;
  const ours = ['devices', 'api', 'doors', 'files', 'gateway', 'lifecycle'].map((name) => pidFileOf(dataDir, name));
  await Promise.all(ours.map((file) => stopRecorded(file, 'SIGTERM', withinMs)));
  await stopRecorded(join(temporalFolder(dataDir), 'temporal.pid'), 'SIGTERM', withinMs);
  await stopRecorded(join(postgresFolder(dataDir), 'postgres.pid'), 'SIGINT', withinMs);
}

export async function bringUpPostgres({ up, dataDir, ports }: PartsDeps): Promise<RunningPostgres> {
  const running = await keepRunning({
    name: 'it',
    start: () =>
      startPostgres({
        dataDir: postgresFolder(dataDir),
        port: ports.postgres,
        onProgress: (text) => say('postgres', text),
      }),
    say: (text) => warn('postgres', text),
  });
  const postgres = up.use(running).current();
  say('postgres', postgres.url.replace(/:[^:@]+@/, '@'));
  return postgres;
}

export async function bringUpTemporal({ up, dataDir, ports }: PartsDeps): Promise<RunningTemporal> {
  const running = await keepRunning({
    name: 'it',
    start: () =>
      startTemporal({
        dataDir: temporalFolder(dataDir),
        port: ports.temporal,
        uiPort: ports.ui,
        namespace,
        searchAttributes: Object.values(searchAttributes).map(({ name }) => name),
        onProgress: (text) => say('temporal', text),
      }),
    say: (text) => warn('temporal', text),
  });
  const temporal = up.use(running).current();
  say('temporal', `${temporal.address}, namespace ${temporal.namespace}`);
  say('ui', uiUrlOf(ports));
  return temporal;
}

/** The same environment that the processes have in production; nothing in it points at somebody else's Temporal. */
export function environmentOf(
  { dataDir, ports }: Pick<PartsDeps, 'dataDir' | 'ports'>,
  databaseUrl: string,
): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('TEMPORAL_'));
  return {
    ...Object.fromEntries(inherited),
    TEMPORAL_CONFIG_FILE: join(rootFolder, 'embedded/temporal.toml'),
    TEMPORAL_ADDRESS: `${host}:${ports.temporal}`,
    TEMPORAL_NAMESPACE: namespace,
    TEMPORAL_UI_URL: uiUrlOf(ports),
    DATABASE_URL: databaseUrl,
    DATABASE_DIRECT_URL: databaseUrl,
    LONGHAUL_TASK_QUEUE: taskQueue,
    LONGHAUL_CRL_URL: `http://${host}:${ports.api}/crl`,
    LONGHAUL_KEY_ENCRYPTION_KEY_FILE: join(dataDir, 'key-encryption-key'),
    LONGHAUL_ROOT_KEY_FILE: join(dataDir, 'root-private-key.pem'),
    LONGHAUL_ADMINISTRATOR_KEY_FILE: administratorKeyFileOf(dataDir),
    GATEWAY_HOST: host,
    GATEWAY_PORT: String(ports.mqtt),
    GATEWAY_CERTIFICATE_FILE: join(dataDir, 'gateway-certificate.pem'),
    GATEWAY_KEY_FILE: join(dataDir, 'gateway-key.pem'),
    FILES_HOST: host,
    FILES_PORT: String(ports.files),
    // The same certificate, so that devices recognise all three servers by the one root that they know.
    FILES_CERTIFICATE_FILE: join(dataDir, 'gateway-certificate.pem'),
    FILES_KEY_FILE: join(dataDir, 'gateway-key.pem'),
    DOORS_HOST: host,
    DOORS_PORT: String(ports.doors),
    DOORS_CERTIFICATE_FILE: join(dataDir, 'gateway-certificate.pem'),
    DOORS_KEY_FILE: join(dataDir, 'gateway-key.pem'),
    LONGHAUL_FILES_URL: filesUrlOf(ports),
    LONGHAUL_ADDRESS_KEY_FILE: join(dataDir, 'address-key'),
    LONGHAUL_ORDER_KEYS_FILE: join(dataDir, 'order-keys.pem'),
    LONGHAUL_ARTIFACTS_FOLDER: join(dataDir, 'artifacts'),
    API_HOST: host,
    API_PORT: String(ports.api),
  };
}

export async function bringUpLifecycle({ up, dataDir, ports, signal }: PartsDeps, env: NodeJS.ProcessEnv) {
  const temporal = openConnection({ address: `${host}:${ports.temporal}` });
  up.defer(() => temporal.close());
  const ready = () => hasPoller(temporal, namespace, taskQueue);
  up.use(await keepNodeRunning({ name: 'lifecycle', entry: 'workers/lifecycle.ts', env, dataDir, ready, signal }));
  say('lifecycle', `works on task queue ${taskQueue}`);
}

export async function bringUpGateway(
  { up, dataDir, ports, signal }: PartsDeps,
  env: NodeJS.ProcessEnv,
  rootCertificatePem: string,
) {
  const metricsPort = await freePort();
  const metrics = `http://${host}:${metricsPort}`;
  const server = { host, port: ports.mqtt, serverName, ca: rootCertificatePem };
  const gateway = {
    name: 'gateway',
    entry: 'workers/gateway.ts',
    env: { ...env, GATEWAY_METRICS_PORT: String(metricsPort) },
    ready: async () => (await isReady(`${metrics}/readyz`)) && shakesHands(server),
  };
  up.use(await keepNodeRunning({ ...gateway, dataDir, signal }));
  say('gateway', `mqtts://${host}:${ports.mqtt}, metrics at ${metrics}/metrics`);
}

export async function bringUpFiles(
  parts: PartsDeps,
  env: NodeJS.ProcessEnv,
  rootCertificatePem: string,
): Promise<string> {
  return bringUpWebServer(parts, env, { name: 'files', variable: 'FILES_METRICS_PORT', rootCertificatePem });
}

export async function bringUpDoors(
  parts: PartsDeps,
  env: NodeJS.ProcessEnv,
  rootCertificatePem: string,
): Promise<string> {
  return bringUpWebServer(parts, env, { name: 'doors', variable: 'DOORS_METRICS_PORT', rootCertificatePem });
}

/** A server that devices speak HTTPS to; its readiness is asked for where its metrics are. */
async function bringUpWebServer(
  { up, dataDir, ports, signal }: PartsDeps,
  env: NodeJS.ProcessEnv,
  { name, variable, rootCertificatePem }: { name: 'files' | 'doors'; variable: string; rootCertificatePem: string },
): Promise<string> {
  const metricsPort = await freePort();
  const metrics = `http://${host}:${metricsPort}`;
  const server = { host, port: ports[name], serverName, ca: rootCertificatePem, protocol: 'http/1.1' as const };
  const part = {
    name,
    entry: `workers/${name}.ts`,
    env: { ...env, [variable]: String(metricsPort) },
    ready: async () => (await isReady(`${metrics}/readyz`)) && shakesHands(server),
  };
  up.use(await keepNodeRunning({ ...part, dataDir, signal }));
  const url = `https://${host}:${ports[name]}`;
  say(name, `${url}, metrics at ${metrics}/metrics`);
  return url;
}

export async function bringUpApi({ up, dataDir, ports, signal }: PartsDeps, env: NodeJS.ProcessEnv): Promise<string> {
  const url = `http://${host}:${ports.api}`;
  const ready = () => isReady(`${url}/readyz`);
  up.use(await keepNodeRunning({ name: 'api', entry: 'api/server.ts', env, dataDir, ready, signal }));
  say('api', `${url}, described at ${url}/v1/openapi.json`);
  return url;
}

/** They know the stack file and the public contract; nothing of the environment. */
export async function bringUpDevices({ up, dataDir, signal }: PartsDeps, api: Api, count: number) {
  const folder = join(dataDir, 'devices');
  const { publicKeyPem } = await ensureReleaseKey(dataDir);
  const orderKeys = await listOrderKeys(api);
  const devices = {
    name: 'devices',
    entry: 'embedded/devices.ts',
    args: [
      '--stack',
      stackFileOf(dataDir),
      '--folder',
      folder,
      '--count',
      String(count),
      `--release-key=${publicKeyPem}`,
      ...orderKeys.map((pem) => `--order-key=${pem}`),
    ],
    env: { PATH: process.env['PATH'] },
    ready: async () => true,
  };
  up.use(await keepNodeRunning({ ...devices, dataDir, signal }));
  say('devices', `${count} simulated, in ${folder}`);
}
