import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Connection } from '@temporalio/client';
import { stopRecorded } from './pid-files.ts';
import { choosePort, untilListening } from './ports.ts';
import { EndedWhileStarting, startProcess, untilReady, type Part } from './processes.ts';

/** The Temporal that `bootstrap.mjs` found or built; a link. */
export const temporalBinary = fileURLToPath(new URL('../.longhaul/temporal', import.meta.url));

export type TemporalOptions = {
  binary?: string;
  /** Everything it keeps is in here: store, log, pid. Made when missing. */
  dataDir: string;
  /** 0: any free one. */
  port: number;
  /** 0: any free one. Without it there is no user interface. */
  uiPort?: number | undefined;
  namespace: string;
  /** Names to register in the namespace, all of type keyword. */
  searchAttributes: readonly string[];
  /** Keeps nothing on disk but its log: for tests. */
  inMemory?: boolean;
  onProgress?: (text: string) => void;
};

export type RunningTemporal = Part & { address: string; namespace: string; uiUrl: string | undefined };

const readyWithinMs = 60_000;
const stopWithinMs = 10_000;
/** It chooses ports for the services within it, and ends when another process has one of them by then. */
const startsMax = 3;
const keyword = 2; // temporal.api.enums.v1.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD

/**
 * Starts Temporal's development server for a folder and waits until the namespace and its search attributes can be used.
 * One left running by a supervisor that was killed is stopped first. What it acknowledged survives restarts and kill -9.
 */
export async function startTemporal(options: TemporalOptions): Promise<RunningTemporal> {
  const { namespace, searchAttributes, onProgress = () => {} } = options;
  const dataDir = resolve(options.dataDir);
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  await stopRecorded(pidFileOf(dataDir), 'SIGTERM', stopWithinMs); // here already: it may hold the port
  const port = await choosePort(options.port, '--temporal-port');
  const uiPort = options.uiPort === undefined ? undefined : await choosePort(options.uiPort, '--ui-port');

  const uiUrl = uiPort === undefined ? undefined : `http://127.0.0.1:${uiPort}`;
  for (let starts = 1; ; starts++) {
    onProgress('starting the server');
    const server = await launchServer({ ...options, dataDir, port, uiPort });
    try {
      await untilReady(server, {
        name: 'Temporal',
        logFile: logOf(dataDir),
        withinMs: readyWithinMs,
        ask: (giveUp) => askUntilUsable({ port, namespace, searchAttributes, giveUp }),
      });
      return { ...server, address: `127.0.0.1:${port}`, namespace, uiUrl };
    } catch (error) {
      await server[Symbol.asyncDispose]();
      if (!(error instanceof EndedWhileStarting) || starts === startsMax) throw error;
    }
  }
}

const pidFileOf = (dataDir: string): string => join(dataDir, 'temporal.pid');
const logOf = (dataDir: string): string => join(dataDir, 'temporal.log');

function launchServer(options: TemporalOptions): Promise<Part> {
  const { binary = temporalBinary, dataDir, port, uiPort, namespace, inMemory = false } = options;
  return startProcess({
    command: binary,
    args: [
      'server',
      'start-dev',
      '--ip=127.0.0.1',
      `--port=${port}`,
      `--namespace=${namespace}`,
      '--log-level=error',
      ...(uiPort === undefined ? ['--headless'] : [`--ui-port=${uiPort}`]),
      // A write-ahead log with full sync: as safe as the default journal, half again as fast.
      ...(inMemory ? [] : [`--db-filename=${join(dataDir, 'temporal.db')}`, '--sqlite-pragma=journal_mode=wal']),
    ],
    cwd: dataDir,
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'] ?? dataDir },
    stopSignal: inMemory ? 'SIGKILL' : 'SIGTERM',
    stopWithinMs,
    pidFile: pidFileOf(dataDir),
    logFile: logOf(dataDir),
  });
}

type Asked = Pick<TemporalOptions, 'namespace' | 'searchAttributes'> & { port: number; giveUp: AbortSignal };

async function askUntilUsable({ port, namespace, searchAttributes, giveUp }: Asked): Promise<void> {
  // Asked only now: gRPC waits a second after a refused connection.
  await untilListening(port, giveUp);
  const connection = await retry(() => Connection.connect({ address: `127.0.0.1:${port}` }), giveUp);
  try {
    await retry(() => connection.workflowService.describeNamespace({ namespace }), giveUp);
    await registerSearchAttributes(connection, namespace, searchAttributes);
  } finally {
    await connection.close();
  }
}

async function retry<T>(ask: () => Promise<T>, giveUp: AbortSignal): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (giveUp.aborted) throw error;
      await delay(25);
    }
  }
}

/** Registers what is missing. A namespace that has them all is only asked. */
async function registerSearchAttributes(connection: Connection, namespace: string, names: readonly string[]) {
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
  const missing = names.filter((name) => !(name in (customAttributes ?? {})));
  if (missing.length === 0) return;
  const searchAttributes = Object.fromEntries(missing.map((name) => [name, keyword]));
  await connection.operatorService.addSearchAttributes({ namespace, searchAttributes });
}
