import { randomUUIDv7 } from 'node:crypto';
import { Client, Connection, WithStartWorkflowOperation } from '@temporalio/client';
import { answer, bareTurns, bareWorkflow, progressed } from '../bare/workflow.ts';
import { each } from './mqtt.ts';

let client: Client | undefined;

export const lifecycleJobs = {
  async connectTemporal({ address, namespace }: { address: string; namespace: string }) {
    client = new Client({ connection: await Connection.connect({ address }), namespace });
  },

  /** Bare workflows, started and answered in one call, so many at a time, in ms each. */
  async askWorkflows({ taskQueue, count, atATime }: { taskQueue: string; count: number; atATime: number }) {
    const latencies: number[] = [];
    const startedAt = performance.now();
    await each(Array.from({ length: count }), atATime, async () => {
      const begun = performance.now();
      const startWorkflowOperation = new WithStartWorkflowOperation(bareWorkflow, {
        workflowId: `bare/${randomUUIDv7()}`,
        taskQueue,
        workflowIdConflictPolicy: 'USE_EXISTING',
      });
      await client?.workflow.executeUpdateWithStart(answer, { startWorkflowOperation });
      latencies.push(performance.now() - begun);
    });
    return { perSecond: (count / (performance.now() - startedAt)) * 1_000, latencies };
  },

  /** Bare workflows with the tasks of a rotation, from the start to the end of each, so many at a time. Returns them per second. */
  async turnWorkflows({ taskQueue, count, atATime }: { taskQueue: string; count: number; atATime: number }) {
    const startedAt = performance.now();
    await each(Array.from({ length: count }), atATime, async () => {
      const handle = await client?.workflow.start(bareTurns, { workflowId: `bare/${randomUUIDv7()}`, taskQueue });
      await handle?.executeUpdate(answer);
      await handle?.signal(progressed);
      await handle?.result();
    });
    return (count / (performance.now() - startedAt)) * 1_000;
  },
};
