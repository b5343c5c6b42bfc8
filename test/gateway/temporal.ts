import { Client } from '@temporalio/client';
import { NativeConnection, Worker } from '@temporalio/worker';
import { createActivities } from '../../activities/index.ts';
import { openConnection } from '../../workers/temporal.ts';
import { freshTaskQueue, workflowBundle } from '../support/temporal.ts';

type Server = { address: string; namespace: string };

/** A client that connects at its first call, and again whenever it has to; with a task queue of its own. */
export function openClient({ address, namespace }: Server) {
  const connection = openConnection({ address });
  return {
    client: new Client({ connection, namespace }),
    namespace,
    taskQueue: freshTaskQueue(),
    [Symbol.asyncDispose]: () => connection.close(),
  };
}

/** The lifecycle worker for a task queue. */
export async function runWorker(
  { address, namespace }: Server,
  taskQueue: string,
  deps: Parameters<typeof createActivities>[0],
): Promise<AsyncDisposable> {
  const connection = await NativeConnection.connect({ address });
  const activities = createActivities(deps);
  const options = { connection, namespace, taskQueue, activities, workflowBundle: await workflowBundle() };
  const worker = await Worker.create(options);
  const running = worker.run();
  return {
    async [Symbol.asyncDispose]() {
      worker.shutdown();
      await running;
      await connection.close();
    },
  };
}
