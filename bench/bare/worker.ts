import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { serveJobs } from '../jobs.ts';
import type { BareActivities } from './workflow.ts';

const activities: BareActivities = { first: async () => {}, second: async () => {} };

const logger = new DefaultLogger('WARN');
Runtime.install({ logger });

const jobs = {
  /** Polls from here on; resolves when it has begun to. */
  async work({ address, namespace, taskQueue }: { address: string; namespace: string; taskQueue: string }) {
    const workflowsPath = fileURLToPath(import.meta.resolve('./workflow.ts'));
    const worker = await Worker.create({
      connection: await NativeConnection.connect({ address }),
      namespace,
      taskQueue,
      workflowBundle: await bundleWorkflowCode({ workflowsPath, logger }),
      activities,
      maxCachedWorkflows: 500,
    });
    void worker.run();
  },
};

export type BareWorkerJobs = typeof jobs;
serveJobs(jobs);
