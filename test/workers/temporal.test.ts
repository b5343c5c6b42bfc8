import { createServer, type ServerHttp2Stream } from 'node:http2';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { openConnection } from '../../workers/temporal.ts';
import { eventually } from '../support/eventually.ts';

test('a connection that closes while a call waits to be tried again ends that call, and not the process', async () => {
  let tries = 0;
  const away = createServer().on('stream', (stream: ServerHttp2Stream) => {
    tries += 1;
    stream.respond(
      { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': status.UNAVAILABLE },
      { endStream: true },
    );
  });
  await once(away.listen(0, '127.0.0.1'), 'listening');
  try {
    // The address of a server that listens on a port is an object.
    const { port } = away.address() as AddressInfo;
    const connection = openConnection({ address: `127.0.0.1:${port}` });
    const call = connection.workflowService.getSystemInfo({});
    const ended = expect(call).rejects.toMatchObject({ code: status.CANCELLED });
    await eventually(() => expect(tries).toBeGreaterThan(1));
    await connection.close();
    await ended;
  } finally {
    away.close();
  }
});
