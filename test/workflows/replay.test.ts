import { readdirSync, readFileSync } from 'node:fs';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import { expect, test } from 'vitest';
import * as workflows from '../../workflows/index.ts';
import { workflowBundle } from '../support/temporal.ts';

/*
 * Histories of real runs, as protobuf JSON. One that today's code cannot replay means that workflows which run while the
 * release goes out would break: change the code with `patched`, or, when no such workflow can be left, record anew with
 * `LONGHAUL_RECORD_HISTORIES=true npx vitest run test/workflows`.
 */
Runtime.install({ logger: new DefaultLogger('ERROR') });

const folder = new URL('../histories/', import.meta.url);
const recorded = readdirSync(folder).filter((name) => name.endsWith('.json'));

test.each(recorded)('%s replays', async (name) => {
  const history: unknown = JSON.parse(readFileSync(new URL(name, folder), 'utf8'));
  await Worker.runReplayHistory({ workflowBundle: await workflowBundle() }, history);
});

test('every lifecycle has a recorded history', () => {
  const types = Object.values(workflows).map(({ name }) => name);
  for (const type of types) expect(recorded.some((name) => name.startsWith(`${type}-`))).toBe(true);
});
