import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { rootFolder } from '../embedded/node-parts.ts';
import { findRecorded } from '../embedded/pid-files.ts';
import { readStackFile, stackFileOf, type Stack } from '../embedded/stack-file.ts';

export type RunningStack = AsyncDisposable & {
  stack: Stack;
  /** From the command line to "ready". */
  readyMs: number;
};

const ports = [
  '--api-port',
  '--mqtt-port',
  '--files-port',
  '--doors-port',
  '--ui-port',
  '--temporal-port',
  '--postgres-port',
].flatMap((flag) => [flag, '0']);

/** All load comes from one machine and one API key: what protects a real fleet from such a neighbour is out of the way. */
export const opened = {
  API_REQUESTS_PER_SECOND: '1000000',
  DOORS_REQUESTS_PER_SECOND_PER_ADDRESS: '1000000',
  GATEWAY_HANDSHAKES_PER_SECOND: '1000000',
  GATEWAY_HANDSHAKES_PER_SECOND_PER_ADDRESS: '1000000',
  GATEWAY_PUBLISHES_PER_SECOND: '1000000',
};

/** What a person gets who types `npm start`, on free ports. */
export async function startStack(dataDir: string, { devices }: { devices: number }): Promise<RunningStack> {
  const startedAt = performance.now();
  const args = ['start', '--silent', '--', '--data', dataDir, '--devices', String(devices), ...ports];
  const env = { ...process.env, ...opened, NO_COLOR: '1' };
  const child = spawn('npm', args, { cwd: rootFolder, env, stdio: ['ignore', 'pipe', 'inherit'] });
  const said: string[] = [];
  const readyMs = await new Promise<number>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      said.push(line);
      if (line.includes('ready in')) resolve(performance.now() - startedAt);
    });
    child.once('exit', () => reject(new Error(`npm start ended:\n${said.slice(-20).join('\n')}`)));
  });
  return {
    stack: await readStackFile(stackFileOf(dataDir)),
    readyMs,
    [Symbol.asyncDispose]: () => stop(child, dataDir),
  };
}

/** npm may be gone before what it ran: the stack has ended when nobody holds its folder. */
async function stop(child: ChildProcess, dataDir: string): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    await exited;
  }
  while ((await findRecorded(join(dataDir, 'holder.pid'))) !== undefined) await pause(50);
}
