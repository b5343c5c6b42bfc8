import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { createActivities } from '../../activities/index.ts';
import type { Fleet } from './gateway.ts';
import { freshTaskQueue, sharedTemporal, workflowBundle } from './temporal.ts';

Runtime.install({ logger: new DefaultLogger('ERROR') });

export type LifecycleRig = AsyncDisposable & { client: Client; namespace: string; taskQueue: string };

/** The lifecycle worker in this process, on a task queue of its own on the run's Temporal. */
export async function startLifecycle({ db, authority }: Pick<Fleet, 'db' | 'authority'>): Promise<LifecycleRig> {
  const { address, namespace } = sharedTemporal();
  const taskQueue = freshTaskQueue();
  const connection = await NativeConnection.connect({ address });
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue,
    workflowBundle: await workflowBundle(),
    activities: createActivities({
      db,
      authority,
      wire: { tell() {} },
    }),
  });
  const running = worker.run();
  const clientConnection = await Connection.connect({ address });
  return {
    client: new Client({ connection: clientConnection, namespace }),
    namespace,
    taskQueue,
    async [Symbol.asyncDispose]() {
      worker.shutdown();
      await running;
      await clientConnection.close();
      await connection.close();
    },
  };
}
