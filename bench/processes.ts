import { readdir, readFile } from 'node:fs/promises';

const ticksPerSecond = 100;

/** CPU seconds that a process and its children, also those that are gone, have used since it began. */
export async function cpuSecondsOf(pid: number): Promise<number> {
  const { ticks, reaped } = await readStat(pid);
  const children = await childrenOf(pid);
  const living = await Promise.all(children.map(async (child) => (await readStat(child)).ticks));
  return (ticks + reaped + living.reduce((sum, one) => sum + one, 0)) / ticksPerSecond;
}

/** Resident memory of one process. */
export async function residentMibOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1_024;
}

/** proc(5): of the process itself, and of its children that it has waited for. One that is gone by now has used nothing. */
async function readStat(pid: number): Promise<{ parent: number; ticks: number; reaped: number }> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The name, in brackets, may have spaces in it.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const field = (number: number) => Number(fields[number - 3] ?? 0);
  return { parent: field(4), ticks: field(14) + field(15), reaped: field(16) + field(17) };
}

async function childrenOf(pid: number): Promise<number[]> {
  const pids = (await readdir('/proc')).map(Number).filter(Number.isInteger);
  const parents = await Promise.all(pids.map(async (one) => ({ one, parent: (await readStat(one)).parent })));
  return parents.filter(({ parent }) => parent === pid).map(({ one }) => one);
}
