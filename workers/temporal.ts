import { InterceptingCall, status, type Interceptor, type NextCall } from '@grpc/grpc-js';
import {
  Client,
  Connection,
  defaultGrpcRetryOptions,
  makeGrpcRetryInterceptor,
  type ConnectionOptions,
} from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection } from '@temporalio/worker';

/*
 * Every connection to Temporal is made here: address, namespace, API key and TLS come from the TEMPORAL_* environment
 * or its configuration file, as with every other Temporal program.
 */

export type Temporal = { client: Client; namespace: string; taskQueue: string; [Symbol.asyncDispose](): Promise<void> };

/**
 * A connection that is made at the first call, and again whenever it has to be. It may be closed at any time: a call
 * that waits to be tried again then ends as cancelled. Of itself, that next try would throw out of a timer
 * ("Channel has been shut down"), where nobody catches it, and end the process.
 */
export function openConnection(options: ConnectionOptions): Connection {
  const interceptors = [makeGrpcRetryInterceptor(defaultGrpcRetryOptions()), cancelledOnceClosed];
  return Connection.lazy({ ...options, interceptors });
}

const cancelledOnceClosed: Interceptor = (options, nextCall) => {
  try {
    return new InterceptingCall(nextCall(options));
  } catch (error) {
    return new InterceptingCall(cancelled(String(error)));
  }
};

/** A call that has ended before it began. */
const cancelled = (details: string): ReturnType<NextCall> => ({
  start(metadata, listener) {
    listener?.onReceiveMessage?.(null);
    listener?.onReceiveStatus?.({ code: status.CANCELLED, details, metadata });
  },
  cancelWithStatus() {},
  getPeer: () => '',
  sendMessageWithContext() {},
  sendMessage() {},
  startRead() {},
  halfClose() {},
  getAuthContext: () => null,
});

/** A client that connects at its first call: a process starts although Temporal is away. */
export function connectTemporal({ taskQueue }: { taskQueue: string }): Temporal {
  const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
  const connection = openConnection(connectionOptions);
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
