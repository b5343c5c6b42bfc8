import { writeFile } from 'node:fs/promises';
import type { WorkflowHandle } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';

/** Keeps the history of this run for the replay test, when LONGHAUL_RECORD_HISTORIES says so. */
export async function recordHistory(workflow: WorkflowHandle, name: string): Promise<void> {
  if (process.env['LONGHAUL_RECORD_HISTORIES'] !== 'true') return;
  const file = new URL(`../histories/${name}.json`, import.meta.url);
  await writeFile(file, `${historyToJSON(await workflow.fetchHistory())}\n`);
}
