import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { nodeCommand } from '../../embedded/node-parts.ts';
import { startProcess, untilReady, type Part } from '../../embedded/processes.ts';

export type SystemProcess = AsyncDisposable & {
  /** Runs it, the first time or again after it was killed, and waits until it is ready. */
  start(): Promise<void>;
  /** kill -9 unless told otherwise, and waits until it is gone. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Sends a signal and does not wait: SIGSTOP, SIGCONT. */
  signal(signal: NodeJS.Signals): void;
  /** While it runs. */
  pid(): number | undefined;
  /** What it has written since its last start. */
  readLog(): Promise<string>;
  readWholeLog(): Promise<string>;
};

const readyWithinMs = 60_000;

/** One of our entry files as a process of its own. Killed, it stays so until the test starts it again. */
export function createSystemProcess(options: {
  name: string;
  entry: string;
  folder: string;
  env: NodeJS.ProcessEnv;
  ready: () => Promise<boolean>;
}): SystemProcess {
  const { name, entry, folder, env, ready } = options;
  const logFile = join(folder, 'logs', `${name}.log`);
  const readWholeLog = () => readFile(logFile, 'utf8').catch(() => '');
  let part: Part | undefined;

  async function start(): Promise<void> {
    await mkdir(join(folder, 'logs'), { recursive: true });
    const node = nodeCommand(entry, folder);
    part = await startProcess({ ...node, env: { ...env, ...node.env }, logFile });
    const ask = async (giveUp: AbortSignal) => {
      while (!(await ready().catch(() => false))) await pause(25, undefined, { signal: giveUp });
    };
    await untilReady(part, { name, logFile, withinMs: readyWithinMs, ask });
  }

  async function kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    part?.kill(signal);
    await part?.exited;
  }

  return {
    start,
    kill,
    signal: (signal) => part?.kill(signal),
    pid: () => part?.pid,
    readWholeLog,
    readLog: async () => (await readWholeLog()).split(/^--- .*\n/m).at(-1) ?? '',
    async [Symbol.asyncDispose]() {
      await part?.[Symbol.asyncDispose]();
    },
  };
}
