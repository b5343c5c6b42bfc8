import { once } from 'node:events';
import { parseArgs } from 'node:util';
import type { Database } from '../db/client.ts';
import { stopSignal } from '../embedded/stop-signal.ts';
import { api } from './api.ts';
import { certificates } from './certificates.ts';
import { commands } from './commands.ts';
import { enrolments } from './enrolments.ts';
import { est } from './est.ts';
import type { Row } from './measure.ts';
import { memory } from './memory.ts';
import { reconnects } from './reconnects.ts';
import { registrations } from './registrations.ts';
import { reports } from './reports.ts';
import { crl, revocations } from './revocations.ts';
import { openRig, type Rig } from './rig.ts';
import { actions, reference } from './rollouts/actions.ts';
import { footprint, registered, waiting } from './rollouts/costs.ts';
import { beginnings, stops } from './rollouts/ends.ts';
import { histories } from './rollouts/growth.ts';
import { decisions } from './rollouts/latency.ts';
import { rollouts } from './rollouts/rates.ts';
import { openRolloutRig, type RolloutRig } from './rollouts/rig.ts';
import { expiring, rotations } from './rotations.ts';
import { start } from './start.ts';
import { describeMachine, tableOf, writeTable } from './table.ts';

/**
 * `npm run bench [-- names] [--write]`: measures the stack as `npm start` brings it up, each row against a baseline of
 * the same run. Nothing is asserted. Those that restart the stack come last.
 */
const groups: Record<string, (rig: Rig) => Promise<Row[]>> = {
  certificates,
  crl,
  revocations,
  reports,
  reconnects,
  commands,
  enrolments,
  est,
  rotations,
  expiring,
  registrations,
  api,
  start,
  memory,
};

/** Those with many devices, on a stack whose gateway lets them in without TLS. */
const rolloutGroups: Record<string, (rig: RolloutRig) => Promise<Row[]>> = {
  rollouts,
  reference,
  actions,
  histories,
  decisions,
  stops,
  beginnings,
  registered,
  footprint,
  waiting,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  // `scale` takes that share of the devices of rows about rollouts: to see that they work.
  options: { write: { type: 'boolean' }, scale: { type: 'string', default: '1' } },
});
const scale = Number(values.scale);
const names = [...Object.keys(groups), ...Object.keys(rolloutGroups)];
const unknown = positionals.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`${unknown.join(', ')}: there is only ${names.join(', ')}`);
  process.exitCode = 2;
} else if (!(scale > 0 && scale <= 1)) {
  console.error('--scale is a share, such as 0.01');
  process.exitCode = 2;
} else if (values.write && (positionals.length > 0 || scale !== 1)) {
  console.error('--write replaces the whole table, so it goes with all rows in their full size');
  process.exitCode = 2;
} else {
  const stopped = once(stopSignal(), 'abort');
  await using up = new AsyncDisposableStack();
  await Promise.race([measureAll(up), stopped]);
}

async function measureAll(up: AsyncDisposableStack): Promise<void> {
  const first = await measure(up, groups, openRig);
  const second = await measure(up, rolloutGroups, () => openRolloutRig({ scale }));
  const { version } = second ?? first ?? { version: 'unknown' };
  const machine = describeMachine(version);
  const table = tableOf([...(first?.rows ?? []), ...(second?.rows ?? [])]);
  console.log(`${machine}\n\n${table}`);
  if (values.write) await writeTable(table, machine);
}

/** Those that were chosen, on a rig of their own; nothing when there are none. */
async function measure<Own extends AsyncDisposable & { db: Database }>(
  up: AsyncDisposableStack,
  own: Record<string, (rig: Own) => Promise<Row[]>>,
  open: () => Promise<Own>,
): Promise<{ rows: Row[]; version: string } | undefined> {
  const chosen = Object.entries(own).filter(([name]) => positionals.length === 0 || positionals.includes(name));
  if (chosen.length === 0) return undefined;
  const rig = up.use(await open());
  const rows: Row[] = [];
  for (const [name, group] of chosen) {
    const startedAt = performance.now();
    const measured = await group(rig);
    rows.push(...measured);
    const seconds = ((performance.now() - startedAt) / 1_000).toFixed(0);
    for (const { what, figure, ratio } of measured)
      console.error(`${name}, ${seconds} s: ${what}: ${figure}, ${ratio}`);
  }
  const [shown] = await rig.db.$client<{ server_version: string }[]>`show server_version`;
  await rig[Symbol.asyncDispose]();
  return { rows, version: shown?.server_version ?? 'unknown' };
}
