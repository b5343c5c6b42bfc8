import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { stopSignal } from '../embedded/stop-signal.ts';
import { api } from './api.ts';
import { certificates } from './certificates.ts';
import { commands } from './commands.ts';
import { enrolments } from './enrolments.ts';
import type { Row } from './measure.ts';
import { memory } from './memory.ts';
import { reconnects } from './reconnects.ts';
import { reports } from './reports.ts';
import { openRig, type Rig } from './rig.ts';
import { start } from './start.ts';
import { describeMachine, tableOf, writeTable } from './table.ts';

/**
 * `npm run bench [-- names] [--write]`: measures the stack as `npm start` brings it up, each row against a baseline of
 * the same run. Nothing is asserted. Those that restart the stack come last.
 */
const groups: Record<string, (rig: Rig) => Promise<Row[]>> = {
  certificates,
  reports,
  reconnects,
  commands,
  enrolments,
  api,
  start,
  memory,
};

const { values, positionals } = parseArgs({ allowPositionals: true, options: { write: { type: 'boolean' } } });
const unknown = positionals.filter((name) => !Object.hasOwn(groups, name));
if (unknown.length > 0) {
  console.error(`${unknown.join(', ')}: there is only ${Object.keys(groups).join(', ')}`);
  process.exitCode = 2;
} else if (values.write && positionals.length > 0) {
  console.error('--write replaces the whole table, so it goes with all rows');
  process.exitCode = 2;
} else {
  const stopped = once(stopSignal(), 'abort');
  await using rig = await openRig();
  await Promise.race([measure(rig), stopped]);
}

async function measure(rig: Rig): Promise<void> {
  const rows: Row[] = [];
  const chosen = Object.entries(groups).filter(([name]) => positionals.length === 0 || positionals.includes(name));
  for (const [name, group] of chosen) {
    const startedAt = performance.now();
    const measured = await group(rig);
    rows.push(...measured);
    const seconds = ((performance.now() - startedAt) / 1_000).toFixed(0);
    for (const { what, figure, ratio } of measured)
      console.error(`${name}, ${seconds} s: ${what}: ${figure}, ${ratio}`);
  }
  const [version] = await rig.db.$client<{ server_version: string }[]>`show server_version`;
  const machine = describeMachine(version?.server_version ?? 'unknown');
  const table = tableOf(rows);
  console.log(`${machine}\n\n${table}`);
  if (values.write) await writeTable(table, machine);
}
