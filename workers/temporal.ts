import { Client, Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection } from '@temporalio/worker';

/*
 * Every connection to Temporal is made here: address, namespace, API key and TLS come from the TEMPORAL_* environment
 * or its configuration file, as with every other Temporal program.
 */

export type Temporal = { client: Client; namespace: string; taskQueue: string; [Symbol.asyncDispose](): Promise<void> };

/** A client that connects at its first call: a process starts although Temporal is away. */
export function connectTemporal({ taskQueue }: { taskQueue: string }): Temporal {
  const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
  const connection = Connection.lazy(connectionOptions);
  return {
    client: new Client({ connection, namespace }),
    namespace,
    taskQueue,
    [Symbol.asyncDispose]: () => connection.close(),
  };
}

/** What a worker polls through. Fails when Temporal cannot be reached. */
export async function connectWorker(): Promise<{ connection: NativeConnection; namespace: string }> {
  const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
  return { connection: await NativeConnection.connect(connectionOptions), namespace };
}
