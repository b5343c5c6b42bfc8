import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { findRecorded, holdFolder, recordProcess, stopRecorded } from '../../embedded/pid-files.ts';
import { keepRunning, startProcess } from '../../embedded/processes.ts';
import { eventually } from '../support/eventually.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'longhaul-processes-'));
});
afterAll(() => rm(folder, { recursive: true }));

const node = (script: string) => ({ command: process.execPath, args: ['--eval', script] });
const forever = 'setInterval(() => {}, 1000);';

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

test('a child hands over its lines and is gone after it was disposed of', async () => {
  const lines: string[] = [];
  const child = await startProcess({
    ...node(`console.log('one'); console.error('two'); ${forever}`),
    onLine: (line) => lines.push(line),
  });
  await eventually(() => expect(lines.toSorted()).toEqual(['one', 'two']));
  await child[Symbol.asyncDispose]();
  expect(isAlive(child.pid)).toBe(false);
  expect(await child.exited).toBe('SIGTERM');
});

test('a child that ignores SIGTERM is killed after its deadline', async () => {
  const lines: string[] = [];
  const child = await startProcess({
    ...node(`process.on('SIGTERM', () => console.log('no')); console.log('up'); ${forever}`),
    stopWithinMs: 300,
    onLine: (line) => lines.push(line),
  });
  await eventually(() => lines.includes('up'));
  await child[Symbol.asyncDispose]();
  expect(lines).toContain('no');
  expect(await child.exited).toBe('SIGKILL');
});

test('a command that does not exist is an error and not a crash', async () => {
  await expect(startProcess({ command: join(folder, 'nothing'), args: [] })).rejects.toThrow('ENOENT');
});

test('a child does not outlive a supervisor that is killed with -9', async () => {
  const processes = import.meta.resolve('../../embedded/processes.ts');
  const supervisor = spawn(
    process.execPath,
    [
      '--input-type=module',
      '--eval',
      `
      import { startProcess } from ${JSON.stringify(processes)};
      const child = await startProcess({ command: process.execPath, args: ['--eval', ${JSON.stringify(forever)}] });
      console.log(child.pid);`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const [line] = await once(createInterface({ input: supervisor.stdout }), 'line');
  const pid = Number(line);
  expect(isAlive(pid)).toBe(true);

  supervisor.kill('SIGKILL');
  await eventually(() => !isAlive(pid) || isZombie(pid));
});

/** Dead, and waiting for an init process that reaps; not every container has one. */
async function isZombie(pid: number): Promise<boolean> {
  return /\) Z /.test(await readFile(`/proc/${pid}/stat`, 'utf8'));
}

test('a part that dies is started again, later and later, and each death is told', async () => {
  const told: string[] = [];
  let starts = 0;
  await using part = await keepRunning({
    name: 'part',
    start: () => startProcess(node(++starts < 4 ? 'process.exit(7)' : forever)),
    say: (text) => told.push(text),
    backOffMs: [10, 20, 30],
  });
  await eventually(() => starts === 4 && isAlive(part.current().pid));
  expect(told.filter((text) => text.includes('died'))).toEqual([
    'part died (exit code 7); starting it again in 0.01 s',
    'part died (exit code 7); starting it again in 0.02 s',
    'part died (exit code 7); starting it again in 0.03 s',
  ]);
});

test('a part that ran long enough has recovered: its next death waits the first pause again', async () => {
  const told: string[] = [];
  await using part = await keepRunning({
    name: 'part',
    start: () => startProcess(node(forever)),
    say: (text) => told.push(text),
    backOffMs: [10, 60_000],
    recoveredAfterMs: 0,
  });
  for (const deaths of [1, 2, 3]) {
    part.current().kill('SIGKILL');
    await eventually(() => expect(told.filter((text) => text === 'part runs again')).toHaveLength(deaths));
  }
});

test('a part that is being stopped does not come back', async () => {
  let starts = 0;
  const start = () => {
    starts++;
    return startProcess(node(forever));
  };
  const part = await keepRunning({ name: 'part', start, say: () => {}, backOffMs: [50] });
  part.current().kill('SIGKILL');
  await part.current().exited;
  await part[Symbol.asyncDispose](); // in the middle of the pause
  expect(isAlive(part.current().pid)).toBe(false);
  expect(starts).toBe(1);
});

test('a start that fails later on is tried again', async () => {
  let starts = 0;
  const start = async () => {
    if (++starts === 2) throw new Error('port taken');
    return startProcess(node(forever));
  };
  const told: string[] = [];
  await using part = await keepRunning({ name: 'part', start, say: (text) => told.push(text), backOffMs: [10] });
  part.current().kill('SIGKILL');
  await eventually(() => starts === 3 && isAlive(part.current().pid));
  expect(told).toContain('part died (port taken); starting it again in 0.01 s');
});

test('one left behind under the same pid file is stopped before the next one starts', async () => {
  const pidFile = join(folder, 'left-behind.pid');
  const left = await startProcess({ ...node(forever), pidFile });
  await using next = await startProcess({ ...node(forever), pidFile });
  expect(await left.exited).toBe('SIGTERM');
  expect(await findRecorded(pidFile)).toBe(next.pid);
});

test('a number that the system gave to another process since is not taken for ours', async () => {
  const file = join(folder, 'recycled.pid');
  await using innocent = await startProcess(node(forever));
  await recordProcess(file, innocent.pid);
  const recorded = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...recorded, started: 'some other time' }));

  expect(await findRecorded(file)).toBeUndefined();
  await stopRecorded(file, 'SIGKILL', 100);
  expect(isAlive(innocent.pid)).toBe(true);
});

test('a folder has one holder at a time, and a dead one holds nothing', async () => {
  const held = await holdFolder(folder);
  await expect(holdFolder(folder)).rejects.toThrow(`in use by process ${process.pid}`);
  await held[Symbol.asyncDispose]();

  const dead = await startProcess(node(''));
  await recordProcess(join(folder, 'holder.pid'), dead.pid);
  await dead.exited;
  const again = await holdFolder(folder);
  expect(await findRecorded(join(folder, 'holder.pid'))).toBe(process.pid);
  await again[Symbol.asyncDispose]();
});
