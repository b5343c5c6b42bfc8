import { execFile } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { z } from 'zod';

const run = promisify(execFile);

/** A process and when it started: a number that the system gave to somebody else since is not taken for it. */
const recordedSchema = z.object({ pid: z.int(), started: z.string() });
type Recorded = z.infer<typeof recordedSchema>;

/** Notes in `file` which process this is, so that a later start can find it. */
export async function recordProcess(file: string, pid: number): Promise<void> {
  const started = await startOf(pid);
  if (started) await writeFile(file, JSON.stringify({ pid, started } satisfies Recorded), { mode: 0o600 });
}

/** The pid noted in `file`, if that very process still runs. */
export async function findRecorded(file: string): Promise<number | undefined> {
  const recorded = await readRecorded(file);
  return recorded && (await isRunning(recorded)) ? recorded.pid : undefined;
}

/** Ends the process noted in `file`, by force after `withinMs`, and forgets it. Does nothing when it is gone already. */
export async function stopRecorded(file: string, signal: NodeJS.Signals, withinMs: number): Promise<void> {
  const recorded = await readRecorded(file);
  if (recorded && (await isRunning(recorded))) {
    process.kill(recorded.pid, signal);
    if (!(await isGoneWithin(recorded, withinMs))) {
      process.kill(recorded.pid, 'SIGKILL');
      await isGoneWithin(recorded, 5000);
    }
  }
  await rm(file, { force: true });
}

/**
 * Claims a folder for this process until disposed. Refuses while another living process holds it; one that was
 * killed holds nothing.
 */
export async function holdFolder(folder: string): Promise<AsyncDisposable> {
  const file = `${folder}/holder.pid`;
  const holder = await findRecorded(file);
  if (holder) throw new Error(`${folder} is in use by process ${holder}: stop it, or choose another folder`);
  await recordProcess(file, process.pid);
  return { [Symbol.asyncDispose]: () => rm(file, { force: true }) };
}

async function readRecorded(file: string): Promise<Recorded | undefined> {
  try {
    return recordedSchema.parse(JSON.parse(await readFile(file, 'utf8')));
  } catch {
    return undefined; // none there, or a write that was cut off
  }
}

async function isRunning({ pid, started }: Recorded): Promise<boolean> {
  return (await startOf(pid)) === started;
}

async function isGoneWithin(recorded: Recorded, withinMs: number): Promise<boolean> {
  const deadline = Date.now() + withinMs;
  while (await isRunning(recorded)) {
    if (Date.now() > deadline) return false;
    await delay(25);
  }
  return true;
}

/** When the process started, as an opaque text; undefined when it is gone, or dead and only not yet reaped. */
async function startOf(pid: number): Promise<string | undefined> {
  try {
    return process.platform === 'linux' ? await startInProc(pid) : await startInPs(pid);
  } catch {
    return undefined;
  }
}

async function startInProc(pid: number): Promise<string | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8');
  // proc(5): the command name in parentheses may hold anything; the state follows it, the start is 19 fields later.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : `${boot.trim()} ${fields[19]}`;
}

async function startInPs(pid: number): Promise<string | undefined> {
  const { stdout } = await run('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], { env: { LC_ALL: 'C' } });
  const [state = '', ...start] = stdout.trim().split(/\s+/);
  return state.startsWith('Z') ? undefined : start.join(' ');
}
