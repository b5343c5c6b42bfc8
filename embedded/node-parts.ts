import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { warn } from './console.ts';
import { keepRunning, startProcess, untilReady, type Part } from './processes.ts';

export type NodePart = {
  name: string;
  /** From the project's folder: `workers/gateway.ts`. */
  entry: string;
  args?: string[];
  env: NodeJS.ProcessEnv;
  /** Keeps its pid and its log. */
  dataDir: string;
  /** Asked until it says yes. */
  ready: () => Promise<boolean>;
  signal: AbortSignal;
};

export const rootFolder = fileURLToPath(new URL('..', import.meta.url));
const readyWithinMs = 60_000;
const askEveryMs = 50;

export const pidFileOf = (dataDir: string, name: string): string => join(dataDir, 'run', `${name}.pid`);
const logFileOf = (dataDir: string, name: string): string => join(dataDir, 'logs', `${name}.log`);

/** Starts one of our own processes, waits until it is ready, and keeps it running. */
export async function keepNodeRunning(part: NodePart): Promise<AsyncDisposable> {
  const { name, dataDir } = part;
  await Promise.all(['logs', 'run'].map((folder) => mkdir(join(dataDir, folder), { recursive: true, mode: 0o700 })));
  return keepRunning({ name: 'it', start: () => startNode(part), say: (text) => warn(name, text) });
}

/**
 * V8's young generation grows while a process starts, and stays: held small, a process takes 30 MiB less. A gateway that is
 * held as small as the others spends a quarter of its busy time on collecting it.
 */
const youngMiB = (entry: string): number => (entry.endsWith('/gateway.ts') ? 16 : 8);

/** glibc keeps a pool of memory for each thread that allocates, up to eight for each core: two hold 45 MiB less in all. */
const mallocArenas = '2';

/** How our processes are started: node's arguments and environment, on top of what they need for themselves. */
export const nodeCommand = (entry: string, dataDir: string) => ({
  command: process.execPath,
  args: [
    `--max-semi-space-size=${youngMiB(entry)}`,
    '--import',
    join(rootFolder, 'embedded/quick-imports.ts'),
    join(rootFolder, entry),
  ],
  env: { NODE_COMPILE_CACHE: join(dataDir, 'compile-cache'), MALLOC_ARENA_MAX: mallocArenas },
  cwd: rootFolder,
});

async function startNode({ name, entry, args = [], env, dataDir, ready, signal }: NodePart): Promise<Part> {
  const node = nodeCommand(entry, dataDir);
  const logFile = logFileOf(dataDir, name);
  const part = await startProcess({
    ...node,
    args: [...node.args, ...args],
    env: { ...env, ...node.env },
    pidFile: pidFileOf(dataDir, name),
    logFile,
  });
  const ask = async (giveUp: AbortSignal) => {
    const stop = AbortSignal.any([giveUp, signal]);
    while (!(await ready().catch(() => false))) await pause(askEveryMs, undefined, { signal: stop });
  };
  try {
    await untilReady(part, { name, logFile, withinMs: readyWithinMs, ask });
    return part;
  } catch (error) {
    await part[Symbol.asyncDispose]();
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(`${message}; all of it is in ${logFile}`, { cause: error });
  }
}
