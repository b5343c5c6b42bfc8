import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listAuthorities } from '../db/authorities.ts';
import { connect, type Database } from '../db/client.ts';
import type { Authority } from '../pki/authority.ts';
import { openSigner } from '../workers/signer.ts';
import type { BareJobs } from './bare/process.ts';
import type { TlsFiles } from './bare/tls.ts';
import { makeDevices } from './fleet.ts';
import { openHelper, type Helper } from './jobs.ts';
import type { Server } from './load/mqtt.ts';
import type { LoadJobs } from './load/process.ts';
import type { LoadDevice } from './load/reports.ts';
import { startStack, type RunningStack } from './stack.ts';

/** What every row finds: the stack as `npm start` brings it up, and processes for load and baselines. */
export type Rig = AsyncDisposable & {
  dataDir: string;
  running: RunningStack;
  db: Database;
  authority: Authority;
  load: Helper<LoadJobs>;
  bare: Helper<BareJobs>;
  /** What the gateway shows its clients, for the baselines to show too. */
  tls: TlsFiles;
  /** Devices with certificates in service; the same ones for everybody who asks. */
  devices(count: number): Promise<LoadDevice[]>;
  /** The gateway, or a baseline on another port, as a client sees it. */
  server(port?: number): Server;
  /** Stops the stack and starts it again with the same data. */
  restart(options: { devices: number }): Promise<void>;
};

export const keyEncryptionKeyFile = (dataDir: string): string => join(dataDir, 'key-encryption-key');

export async function openRig(): Promise<Rig> {
  await using opening = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'longhaul-bench-'));
  opening.defer(() => rm(dataDir, { recursive: true, force: true, maxRetries: 5 }));
  await chmod(dataDir, 0o711); // Postgres may run as another user, and passes through
  const load = opening.use(await openHelper<LoadJobs>(import.meta.resolve('./load/process.ts')));
  const bare = opening.use(await openHelper<BareJobs>(import.meta.resolve('./bare/process.ts')));
  let running = await startStack(dataDir, { devices: 0 });
  opening.defer(() => running[Symbol.asyncDispose]());
  let db = connect({ url: running.stack.postgres.url, applicationName: 'longhaul bench' });
  opening.defer(() => db.$client.end({ timeout: 1 }));

  const authority = await openSigner(db, { keyEncryptionKeyFile: keyEncryptionKeyFile(dataDir) });
  const authorities = await listAuthorities(db);
  const tls = {
    certificatePem: await readFile(join(dataDir, 'gateway-certificate.pem'), 'utf8'),
    privateKeyPem: await readFile(join(dataDir, 'gateway-key.pem'), 'utf8'),
    authoritiesPem: authorities.map(({ certificatePem }) => certificatePem),
  };
  const ca = await readFile(running.stack.authority.file, 'utf8');
  const fleet: LoadDevice[] = [];
  const up = opening.move();
  return {
    dataDir,
    load,
    bare,
    tls,
    authority,
    get running() {
      return running;
    },
    get db() {
      return db;
    },
    async devices(count) {
      if (fleet.length < count) fleet.push(...(await makeDevices({ db, authority }, count - fleet.length)));
      return fleet.slice(0, count);
    },
    server: (port) => ({ ...running.stack.mqtt, ...(port !== undefined && { port }), ca }),
    async restart(options) {
      await db.$client.end({ timeout: 1 });
      await running[Symbol.asyncDispose]();
      running = await startStack(dataDir, options);
      db = connect({ url: running.stack.postgres.url, applicationName: 'longhaul bench' });
    },
    [Symbol.asyncDispose]: () => up.disposeAsync(),
  };
}
