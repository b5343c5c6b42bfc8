import { once } from 'node:events';
import { connect } from 'node:tls';
import type { Connection } from '@temporalio/client';

/** Whether a part's own readiness page says yes. */
export async function isReady(url: string): Promise<boolean> {
  const answer = await fetch(url, { signal: AbortSignal.timeout(2_000) });
  await answer.body?.cancel();
  return answer.ok;
}

export type TlsServer = { host: string; port: number; serverName: string; ca: string; protocol?: 'mqtt' | 'http/1.1' };

/** Whether a server is there whose certificate the authority issued. */
export async function shakesHands({ host, port, serverName, ca, protocol = 'mqtt' }: TlsServer): Promise<boolean> {
  const socket = connect({ host, port, servername: serverName, ca, ALPNProtocols: [protocol] });
  try {
    await once(socket, 'secureConnect', { signal: AbortSignal.timeout(2_000) });
    return socket.authorized;
  } finally {
    socket.destroy();
  }
}

/** Whether a worker asks Temporal for work. */
export async function hasPoller(temporal: Connection, namespace: string, taskQueue: string): Promise<boolean> {
  // Without a type it is the queue of workflow tasks.
  const queue = { namespace, taskQueue: { name: taskQueue } };
  const { pollers } = await temporal.workflowService.describeTaskQueue(queue);
  return (pollers ?? []).length > 0;
}
