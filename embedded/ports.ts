import { once } from 'node:events';
import { createServer, connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** The wanted port, checked to be free, or any free one for 0. The error names the port and the flag that changes it. */
export async function choosePort(wanted: number, flag: string): Promise<number> {
  const server = createServer();
  try {
    server.listen(wanted, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    return typeof address === 'object' && address ? address.port : wanted;
  } catch (error) {
    throw new Error(`Port ${wanted} is in use: free it, or choose another with ${flag} (0 = any free port)`, {
      cause: error,
    });
  } finally {
    server.close();
  }
}

export const freePort = (): Promise<number> => choosePort(0, '');

/** Waits until somebody accepts connections on the port. */
export async function untilListening(port: number, giveUp: AbortSignal): Promise<void> {
  for (;;) {
    const socket = connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect', { signal: giveUp });
      return;
    } catch (error) {
      if (giveUp.aborted) throw error;
      await delay(25);
    } finally {
      socket.destroy();
    }
  }
}
