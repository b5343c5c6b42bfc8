import { randomBytes } from 'node:crypto';
import { mkdir, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { inject } from 'vitest';
import { connect, type Database } from '../../db/client.ts';
import { initialise } from '../../embedded/initialise.ts';
import { environmentOf, filesUrlOf, host, serverName } from '../../embedded/parts.ts';
import { freePort } from '../../embedded/ports.ts';
import { isReady, shakesHands } from '../../embedded/readiness.ts';
import { makeDatabase } from './database.ts';
import type { Answer, Ask } from './api.ts';
import { createSystemProcess, type SystemProcess } from './system-process.ts';
import { freshTaskQueue, sharedTemporal, workflowBundle } from './temporal.ts';

export type SystemGateway = SystemProcess & { port: number; metricsUrl: string };

export type System = AsyncDisposable & {
  lifecycle: SystemProcess;
  gateways: SystemGateway[];
  api: SystemProcess;
  /** Where devices download; started when the options ask for it. */
  files: SystemProcess & { url: string; metricsUrl: string };
  /** Where devices enrol over HTTPS; started when the options ask for it. */
  doors: SystemProcess & { url: string; metricsUrl: string };
  /** Where the first gateway is, as a device would know it. */
  mqtt: { host: string; port: number; serverName: string; ca: string };
  /** A request to the API with the administrator's key. */
  ask: Ask;
  apiUrl: string;
  token: string;
  /** For looking at the rows: what the processes use is their own. */
  db: Database;
  temporal: { address: string; namespace: string; taskQueue: string };
  /** Its files, as in the data folder of `npm start`. */
  folder: string;
  /** Everything that the processes have written so far. */
  readLogs(): Promise<string>;
};

export type SystemOptions = {
  gateways?: number;
  files?: boolean;
  doors?: boolean;
  /** A database and a Temporal of the test's own, for tests that break them; the run's otherwise. */
  postgres?: { url: string };
  temporal?: { address: string; namespace: string };
  /** On top of what `npm start` gives its processes. */
  env?: Record<string, string>;
};

/** The whole product: the entry files as processes, with the environment that `npm start` gives them, each ready. */
export async function startSystem(options: SystemOptions = {}): Promise<System> {
  const { gateways = 1, files: withFiles = false, doors: withDoors = false, postgres, temporal, env } = options;
  await using starting = new AsyncDisposableStack();
  const folder = join(inject('folder'), `system-${randomBytes(4).toString('hex')}`);
  starting.defer(() => rm(folder, { recursive: true, force: true }));
  await prepareFolder(folder);
  const { url } = postgres ?? starting.use(await makeDatabase());
  const { address, namespace } = temporal ?? sharedTemporal();
  const taskQueue = freshTaskQueue();
  const ports = {
    api: await freePort(),
    mqtt: 0,
    files: await freePort(),
    doors: await freePort(),
    ui: 0,
    temporal: 0,
    postgres: 0,
  };
  const environment: NodeJS.ProcessEnv = {
    ...environmentOf({ dataDir: folder, ports }, url),
    TEMPORAL_ADDRESS: address,
    TEMPORAL_NAMESPACE: namespace,
    LONGHAUL_TASK_QUEUE: taskQueue,
    LONGHAUL_WORKFLOW_BUNDLE_FILE: (await workflowBundle()).codePath,
    ...env,
  };
  const { administratorKey: token, rootCertificatePem: ca } = await initialise(folder, environment);

  const process = (name: string, entry: string, more: object, ready: () => Promise<boolean>) =>
    starting.use(createSystemProcess({ name, entry, folder, env: { ...environment, ...more }, ready }));
  const apiUrl = `http://${host}:${ports.api}`;
  const api = process('api', 'api/server.ts', {}, () => isReady(`${apiUrl}/readyz`));
  const filesMetricsPort = await freePort();
  const filesMetricsUrl = `http://${host}:${filesMetricsPort}`;
  const files = process('files', 'workers/files.ts', { FILES_METRICS_PORT: String(filesMetricsPort) }, () =>
    isReady(`${filesMetricsUrl}/readyz`),
  );
  const doorsMetricsUrl = `http://${host}:${await freePort()}`;
  const doorsPort = { DOORS_METRICS_PORT: new URL(doorsMetricsUrl).port };
  const doors = process('doors', 'workers/doors.ts', doorsPort, () => isReady(`${doorsMetricsUrl}/readyz`));
  const saysReady = async () => (await lifecycle.readLog()).includes('lifecycle worker is ready');
  const lifecycle = process('lifecycle', 'workers/lifecycle.ts', {}, saysReady);
  const all = await Promise.all(
    Array.from({ length: gateways }, async (_, index) => {
      const [port, metricsPort] = [await freePort(), await freePort()];
      const metricsUrl = `http://${host}:${metricsPort}`;
      const more = { GATEWAY_PORT: String(port), GATEWAY_METRICS_PORT: String(metricsPort) };
      const ready = async () => (await isReady(`${metricsUrl}/readyz`)) && shakesHands({ host, port, serverName, ca });
      return { ...process(`gateway-${index + 1}`, 'workers/gateway.ts', more, ready), port, metricsUrl };
    }),
  );
  const processes = [api, lifecycle, ...(withFiles ? [files] : []), ...(withDoors ? [doors] : []), ...all];
  await Promise.all(processes.map((one) => one.start()));

  const db = connect({ url, applicationName: 'test' });
  starting.defer(() => db.$client.end({ timeout: 1 }));
  const resources = starting.move();
  return {
    api,
    files: { ...files, url: filesUrlOf(ports), metricsUrl: filesMetricsUrl },
    doors: { ...doors, url: `https://${host}:${ports.doors}`, metricsUrl: doorsMetricsUrl },
    lifecycle,
    gateways: all,
    token,
    db,
    folder,
    apiUrl,
    ask: asker(apiUrl, token),
    mqtt: { host, port: all[0]?.port ?? 0, serverName, ca },
    temporal: { address, namespace, taskQueue },
    async readLogs() {
      const logs = await Promise.all(processes.map(({ readWholeLog }) => readWholeLog()));
      return logs.join('\n');
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

/** Compiled code is shared by all systems of the run. */
async function prepareFolder(folder: string): Promise<void> {
  const cache = join(inject('folder'), 'compile-cache');
  await Promise.all([mkdir(folder, { recursive: true }), mkdir(cache, { recursive: true })]);
  await symlink(cache, join(folder, 'compile-cache'));
}

const asker =
  (url: string, token: string): Ask =>
  async (method, path, body, headers = {}): Promise<Answer> => {
    const content = body === undefined ? {} : { 'content-type': 'application/json' };
    const response = await fetch(new URL(path, url), {
      method,
      // Not kept: a connection to a server that was killed since would fail a request which that never saw.
      headers: { authorization: `Bearer ${token}`, connection: 'close', ...content, ...headers },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '');
    return { status: response.status, headers: response.headers, text, body: isJson ? JSON.parse(text) : text };
  };
