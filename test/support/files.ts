import { createHash, randomBytes, randomUUIDv7 } from 'node:crypto';
import { once } from 'node:events';
import { request as requestPlain, type IncomingMessage } from 'node:http';
import { request as requestSecure } from 'node:https';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { pino } from 'pino';
import { inject } from 'vitest';
import type { Db } from '../../db/client.ts';
import { executions } from '../../db/rollout-schema.ts';
import { devices } from '../../db/schema.ts';
import { createAddresses, type Addresses } from '../../files/addresses.ts';
import { createDownloads, type Downloads } from '../../files/downloads.ts';
import { openFileSystem } from '../../files/file-system.ts';
import { createFilesMetrics } from '../../files/metrics.ts';
import { createPermissions } from '../../files/permissions.ts';
import { serveFiles, type Tls } from '../../files/server.ts';
import type { Store } from '../../files/store.ts';
import { readKey } from '../../workers/keys.ts';
import type { Fleet } from './gateway.ts';
import type { System } from './system.ts';

export type FilesRig = AsyncDisposable & {
  addresses: Addresses;
  store: Store;
  /** What a counter or gauge stands at. */
  count(metric: string): Promise<number>;
  downloads: Downloads;
  port: number;
  drain(withinMs: number): Promise<void>;
};

export type FilesRigOptions = {
  db: Db;
  tls?: Tls;
  store?: Store;
  downloadsMax?: number;
  trustMs?: number;
  lifetimeSeconds?: number;
  idleMs?: number;
  missing?: () => Promise<string[]>;
};

/** The files' server in this process, on a free port of 127.0.0.1. */
export async function startTestFiles({ db, tls, trustMs = 0, ...options }: FilesRigOptions): Promise<FilesRig> {
  const { downloadsMax = 100, lifetimeSeconds = 60, idleMs = 10_000, missing = async () => [] } = options;
  const store =
    options.store ?? (await openFileSystem(join(inject('folder'), `files-${randomBytes(4).toString('hex')}`)));
  const metrics = createFilesMetrics();
  const key = randomBytes(32);
  const verify = createAddresses({ base: '', key, lifetimeSeconds });
  const permissions = createPermissions({ db, trustMs });
  const log = pino({ level: 'silent' });
  const downloads = createDownloads({ addresses: verify, permissions, store, metrics, log, downloadsMax });
  const server = await serveFiles({ host: '127.0.0.1', port: 0, tls, idleMs, downloads, missing });
  const { port, drain } = server;
  const base = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
  return {
    addresses: createAddresses({ base, key, lifetimeSeconds }),
    store,
    async count(metric) {
      const text = await metrics.registry.getSingleMetricAsString(metric);
      return Number(text.trim().split(' ').at(-1));
    },
    downloads,
    port,
    drain,
    [Symbol.asyncDispose]: () => drain(0),
  };
}

export const digestOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function storeContent(store: Store, bytes: Uint8Array): Promise<string> {
  const sha256 = digestOf(bytes);
  await store.write(
    sha256,
    (async function* () {
      yield bytes;
    })(),
  );
  return sha256;
}

/** A job that the device has to do; returns its id. */
export async function giveJob(db: Db, deviceId: string): Promise<string> {
  const jobId = randomUUIDv7();
  await db.insert(executions).values({ jobId, deviceId, attempt: 1, status: 'QUEUED' });
  return jobId;
}

/** A device with a job to do, and its address for the content. */
export async function makeDownloadOf(fleet: Fleet, { addresses }: Pick<FilesRig, 'addresses'>, sha256: string) {
  const device = await fleet.makeDevice();
  const jobId = await giveJob(fleet.db, device.deviceId);
  const addressed = { sha256, deviceId: device.deviceId, jobId };
  return { device, jobId, addressed, address: addresses.sign(addressed) };
}

/** What a gateway of the system would make addresses by, and a device with a job to do. */
export async function addressesOf({ db, folder, files }: Pick<System, 'db' | 'folder' | 'files'>) {
  const key = await readKey(join(folder, 'address-key'));
  const addresses = createAddresses({ base: files.url, key, lifetimeSeconds: 600 });
  const deviceId = randomUUIDv7();
  await db.insert(devices).values({ id: deviceId, name: `pump-${deviceId.slice(-8)}`, state: 'ACTIVE' });
  return { addresses, deviceId, jobId: await giveJob(db, deviceId) };
}

export type Fetching = {
  method?: string;
  headers?: Record<string, string>;
  ca?: string;
  credentials?: { certificate: string; privateKey: string };
};

/** The head of the answer; its body is still to be read. */
export async function open(address: string, { method = 'GET', headers, ca, credentials }: Fetching = {}) {
  const tls = { ca, ...(credentials && { cert: credentials.certificate, key: credentials.privateKey }) };
  const options = { method, headers: headers ?? {}, agent: false } as const;
  const request = address.startsWith('https:')
    ? requestSecure(address, { ...options, ...tls })
    : requestPlain(address, options);
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return { request, response, status: response.statusCode ?? 0, headers: response.headers };
}

export async function fetchAll(address: string, { method = 'GET', ...options }: Fetching = {}) {
  const { response, status, headers } = await open(address, { method, ...options });
  const body = await buffer(response);
  const isJson = method !== 'HEAD' && /json/.test(headers['content-type'] ?? '');
  return {
    status,
    headers,
    body,
    problem: isJson ? String(JSON.parse(body.toString()).type).split(':').at(-1) : undefined,
  };
}
