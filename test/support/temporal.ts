import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { inject } from 'vitest';
import { startTemporal } from '../../embedded/temporal.ts';
import { bundleWorkflows } from '../../workers/bundle.ts';
import { searchAttributes } from '../../workflows/search-attributes.ts';

/** Where the run's Temporal is. It lives in memory and nobody may stop it. */
export const sharedTemporal = (): { address: string; namespace: string } => inject('temporal');

/** A queue nobody else polls: what one test starts, no worker of another takes. */
export const freshTaskQueue = (): string => `test-${randomBytes(6).toString('hex')}`;

/** The workflows, bundled once for the whole run, as a worker's `workflowBundle`. Whoever asks first makes it. */
export async function workflowBundle(): Promise<{ codePath: string }> {
  const codePath = join(inject('folder'), 'workflows.js');
  const claim = `${codePath}.unfinished`;
  while (!existsSync(codePath)) {
    if (!(await isMine(claim))) {
      await delay(50);
      continue;
    }
    try {
      const { code } = await bundleWorkflows();
      await writeFile(claim, code);
      await rename(claim, codePath);
    } catch (error) {
      await rm(claim, { force: true }); // the next one tries, and reports, for itself
      throw error;
    }
  }
  return { codePath };
}

const isMine = (claim: string): Promise<boolean> =>
  writeFile(claim, '', { flag: 'wx' }).then(
    () => true,
    () => false,
  );

export type OwnTemporal = AsyncDisposable & {
  address: string;
  namespace: string;
  /** kill -9, and waits until the server is gone. */
  kill(): Promise<void>;
  /** After a kill: the same store, unless it was deleted, under the same address. */
  start(): Promise<void>;
  /** After a kill: forgets everything, as after a lost disk. */
  deleteStore(): Promise<void>;
};

/** A Temporal of the test's own, with a store on disk, for tests that kill it. */
export async function ownTemporal(): Promise<OwnTemporal> {
  const dataDir = join(inject('folder'), `temporal-${randomBytes(4).toString('hex')}`);
  const options = {
    dataDir,
    namespace: 'longhaul',
    searchAttributes: Object.values(searchAttributes).map(({ name }) => name),
  };
  let server = await startTemporal({ ...options, port: 0 });
  const { address, namespace } = server;
  const kill = async () => {
    server.kill('SIGKILL');
    await server.exited;
  };
  return {
    address,
    namespace,
    kill,
    async start() {
      server = await startTemporal({ ...options, port: Number(new URL(`http://${address}`).port) });
    },
    deleteStore: () => rm(dataDir, { recursive: true, force: true }),
    async [Symbol.asyncDispose]() {
      await kill();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}
