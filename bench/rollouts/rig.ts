import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listAuthorities } from '../../db/authorities.ts';
import { connect, type Database } from '../../db/client.ts';
import { openSigner } from '../../workers/signer.ts';
import type { BareJobs } from '../bare/process.ts';
import { makeDevices } from '../fleet.ts';
import { openHelper, type Helper } from '../jobs.ts';
import type { LoadJobs } from '../load/process.ts';
import type { LoadDevice } from '../load/reports.ts';
import { keyEncryptionKeyFile } from '../rig.ts';
import { watchDecisions, type Decisions } from './decisions-made.ts';
import { makeCrowd } from './fleet.ts';
import { startParts, type Parts } from './parts.ts';

/** What every row about rollouts finds. */
export type RolloutRig = AsyncDisposable & {
  dataDir: string;
  parts: Parts;
  db: Database;
  decisions: Decisions;
  /** The devices, and in a process of their own those of the baselines. */
  load: Helper<LoadJobs>;
  others: Helper<LoadJobs>;
  bare: Helper<BareJobs>;
  /** As many as the row says, or the share of them that was asked for. */
  size(count: number): number;
  /** Devices with rows, and so many of them connected without TLS, listening, in the crowd `devices`. */
  gather(count: number): Promise<void>;
  /** Devices with certificates of their own. */
  devicesWithKeys(count: number): Promise<LoadDevice[]>;
  /** Stops everything and starts it again with the same data; nobody is connected then. */
  restart(lifecycle?: string[]): Promise<void>;
};

export const prefix = 'crowd-';
export const nameOf = (index: number): string => `${prefix}${index}`;

export async function openRolloutRig({ scale }: { scale: number }): Promise<RolloutRig> {
  await using opening = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'longhaul-bench-'));
  opening.defer(() => rm(dataDir, { recursive: true, force: true, maxRetries: 5 }));
  await chmod(dataDir, 0o711); // Postgres may run as another user, and passes through
  const module = import.meta.resolve('../load/process.ts');
  const load = opening.use(await openHelper<LoadJobs>(module));
  const others = opening.use(await openHelper<LoadJobs>(module));
  const bare = opening.use(await openHelper<BareJobs>(import.meta.resolve('../bare/process.ts')));
  let running = await bringUp(dataDir);
  opening.defer(() => running[Symbol.asyncDispose]());

  let registered = 0;
  let connected = 0;
  const withKeys: LoadDevice[] = [];
  const up = opening.move();
  return {
    dataDir,
    load,
    others,
    bare,
    get parts() {
      return running.parts;
    },
    get db() {
      return running.db;
    },
    get decisions() {
      return running.decisions;
    },
    size: (count) => Math.max(2, Math.round(count * scale)),
    async gather(count) {
      if (registered < count) await makeCrowd(running.db, { prefix, first: registered, end: count });
      registered = Math.max(registered, count);
      const members = Array.from({ length: Math.max(0, count - connected) }, (_, n) => ({
        name: nameOf(connected + n),
      }));
      connected = await load.run('gather', { crowd: 'devices', server: running.parts.plain, members });
    },
    async devicesWithKeys(count) {
      const authority = await openSigner(running.db, { keyEncryptionKeyFile: keyEncryptionKeyFile(dataDir) });
      const missing = Math.max(0, count - withKeys.length);
      withKeys.push(...(await makeDevices({ db: running.db, authority }, missing)));
      return withKeys.slice(0, count);
    },
    async restart(lifecycle) {
      await load.run('disperse', { crowd: 'devices' });
      connected = 0;
      await running[Symbol.asyncDispose]();
      running = await bringUp(dataDir, lifecycle);
    },
    [Symbol.asyncDispose]: () => up.disposeAsync(),
  };
}

async function bringUp(dataDir: string, lifecycle?: string[]) {
  await using starting = new AsyncDisposableStack();
  const parts = starting.use(await startParts(dataDir, lifecycle));
  const db = connect({ url: parts.databaseUrl, applicationName: 'longhaul bench' });
  starting.defer(() => db.$client.end({ timeout: 1 }));
  const decisions = await watchDecisions(db);
  const up = starting.move();
  return { parts, db, decisions, [Symbol.asyncDispose]: () => up.disposeAsync() };
}

/** What the gateway shows and believes, for a baseline with TLS. */
export async function tlsOf({ db, parts }: RolloutRig) {
  const authorities = await listAuthorities(db);
  return parts.tls(authorities.map(({ certificatePem }) => certificatePem));
}
