import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, statSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { recordProcess, stopRecorded } from './pid-files.ts';

/** Something that runs until it dies or is disposed of; disposing stops it and waits until it is gone. */
export type Part = AsyncDisposable & {
  pid: number;
  /** Resolves, never rejects, with the reason in words (`exit code 1`, `SIGKILL`). */
  exited: Promise<string>;
  /** Sends a signal; does nothing to a process that is gone. */
  kill: (signal: NodeJS.Signals) => void;
};

export type ProcessOptions = {
  command: string;
  args: string[];
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Whom to run as; only root may choose. */
  user?: { uid: number; gid: number } | undefined;
  stopSignal?: NodeJS.Signals;
  /** After this long the process is killed. */
  stopWithinMs?: number;
  /** Where it is noted. One left behind under the same file is stopped before this one starts. */
  pidFile?: string;
  /** Receives each line of output. Without it the output goes to `logFile`, or nowhere. */
  onLine?: (line: string) => void;
  logFile?: string;
};

const logBytesMax = 10 * 1024 * 1024;

/**
 * Starts a process that does not outlive this one: when this process ends in whatever way, kill -9 included, a watchdog
 * stops it. It has a process group of its own, so that ctrl-C reaches only the supervisor, who stops things in order.
 */
export async function startProcess(options: ProcessOptions): Promise<Part> {
  const { stopSignal = 'SIGTERM', stopWithinMs = 10_000, pidFile } = options;
  if (pidFile) await stopRecorded(pidFile, stopSignal, stopWithinMs);

  const child = launch(options);
  await once(child, 'spawn'); // rejects when the command cannot be started
  const { pid } = child;
  if (!pid) throw new Error(`${options.command} did not start`);

  const watchdog = watch(pid, stopSignal, stopWithinMs, options.user);
  const exited = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => {
      watchdog.kill('SIGKILL');
      resolve(signal ?? `exit code ${code}`);
    });
  });
  if (pidFile) await recordProcess(pidFile, pid);

  const stop = async () => {
    child.kill(stopSignal);
    const patience = new AbortController();
    void delay(stopWithinMs, undefined, { signal: patience.signal }).then(
      () => child.kill('SIGKILL'),
      () => {},
    );
    await exited;
    patience.abort();
  };
  return { pid, exited, kill: (signal) => void child.kill(signal), [Symbol.asyncDispose]: stop };
}

/** The process ended before it was ready; the message has the last lines of its log. */
export class EndedWhileStarting extends Error {
  override name = 'EndedWhileStarting';
}

/**
 * Waits until `ask` succeeds. When the process ends first, the error is `EndedWhileStarting`; `giveUp` tells
 * `ask` that nobody waits any more.
 */
export async function untilReady(
  part: Part,
  {
    name,
    logFile,
    withinMs,
    ask,
  }: { name: string; logFile: string; withinMs: number; ask: (giveUp: AbortSignal) => Promise<void> },
): Promise<void> {
  const asking = new AbortController();
  const diesFirst = async () => {
    const reason = await part.exited;
    const ofThisStart = (await readFile(logFile, 'utf8')).split(/^--- .*\n/m).at(-1) ?? '';
    const lines = ofThisStart.trimEnd().split('\n').slice(-5);
    throw new EndedWhileStarting(`${name} stopped while starting (${reason}): ${lines.join(' | ')}`);
  };
  try {
    await Promise.race([diesFirst(), ask(AbortSignal.any([asking.signal, AbortSignal.timeout(withinMs)]))]);
  } finally {
    asking.abort();
  }
}

function launch({ command, args, env, cwd, user, onLine, logFile }: ProcessOptions) {
  const log = onLine ? 'pipe' : logFile ? openLog(logFile) : 'ignore';
  const child = spawn(command, args, { env, cwd, ...user, detached: true, stdio: ['ignore', log, log] });
  if (typeof log === 'number') closeSync(log);
  if (onLine) {
    for (const stream of [child.stdout, child.stderr]) {
      if (stream) createInterface({ input: stream }).on('line', onLine);
    }
  }
  return child;
}

/** Opened to append, behind a line that separates this start from the last. One that has grown large begins anew. */
function openLog(file: string): number {
  const isLarge = (statSync(file, { throwIfNoEntry: false })?.size ?? 0) > logBytesMax;
  const log = openSync(file, isLarge ? 'w' : 'a', 0o600);
  writeSync(log, `--- started ${new Date().toISOString()}\n`);
  return log;
}

/** Waits for the end of its input, which comes when this process ends, then ends `pid`: politely, then by force. */
const watchdogScript = `
  read -r _
  kill -s "$1" "$2" 2>/dev/null || exit 0
  left=$3
  while [ "$left" -gt 0 ]; do sleep 1; kill -s 0 "$2" 2>/dev/null || exit 0; left=$((left - 1)); done
  kill -s KILL "$2"`;

function watch(pid: number, signal: NodeJS.Signals, withinMs: number, user: ProcessOptions['user']) {
  const seconds = Math.ceil(withinMs / 1000);
  const args = ['-c', watchdogScript, 'longhaul-watchdog', signal.slice('SIG'.length), String(pid), String(seconds)];
  const watchdog = spawn('sh', args, { ...user, detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  watchdog.unref();
  watchdog.on('error', () => {}); // no shell: the next start still cleans up, by the pid file
  return watchdog;
}

export type KeepRunning<P extends Part> = {
  name: string;
  start: () => Promise<P>;
  say: (text: string) => void;
  /** Each further death in a row waits for the next of these; the last one repeats. */
  backOffMs?: readonly number[];
  /** A part that ran this long has recovered: its next death is a first one again. */
  recoveredAfterMs?: number;
};

/**
 * Keeps a part running until disposed: starts it again with back-off whenever it dies, and says so.
 * A first start that fails is the caller's error; later ones are tried for ever.
 */
export async function keepRunning<P extends Part>({
  name,
  start,
  say,
  backOffMs = [250, 500, 1000, 2000, 5000, 10_000],
  recoveredAfterMs = 30_000,
}: KeepRunning<P>): Promise<AsyncDisposable & { current: () => P }> {
  const stopping = new AbortController();
  const { signal } = stopping;
  let current = await start();
  let startedAt = Date.now();
  let deaths = 0;

  const startAgain = async (reason: string): Promise<void> => {
    deaths = Date.now() - startedAt > recoveredAfterMs ? 1 : deaths + 1;
    const pauseMs = backOffMs[Math.min(deaths, backOffMs.length) - 1] ?? 0;
    say(`${name} died (${reason}); starting it again in ${pauseMs / 1000} s`);
    await delay(pauseMs, undefined, { signal });
    startedAt = Date.now();
    current = await start();
    say(`${name} runs again`);
  };

  const supervise = async (): Promise<void> => {
    let reason = await current.exited;
    while (!signal.aborted) {
      reason = await startAgain(reason).then(() => current.exited, describe);
    }
    await current[Symbol.asyncDispose](); // one that came up while we were being stopped
  };
  const supervision = supervise();

  return {
    current: () => current,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await current[Symbol.asyncDispose]();
      await supervision;
    },
  };
}

const describe = (error: unknown): string => (error instanceof Error ? error.message : String(error));
