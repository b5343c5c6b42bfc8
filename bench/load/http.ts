import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export type Post = { port: number; path: string; token: string; body: object };

export const httpJobs = {
  /** POSTs over so many connections that stay open, one request at a time on each. Returns answers 202 per second. */
  async postLoad({
    port,
    path,
    token,
    bodies,
    connections,
    ms,
  }: Omit<Post, 'body'> & { bodies: object[]; connections: number; ms: number }) {
    const requests = bodies.map((body) => requestOf({ port, path, token, body }));
    const deadline = performance.now() + ms;
    let next = 0;
    let accepted = 0;
    await Promise.all(
      Array.from({ length: connections }, async () => {
        await using connection = await openConnection(port);
        while (performance.now() < deadline) {
          next += 1;
          const { status, body } = await connection.post(requests[next % requests.length] ?? '');
          if (status !== 202) throw new Error(`answered ${status}: ${body}`);
          if (performance.now() < deadline) accepted += 1;
        }
      }),
    );
    return (accepted / ms) * 1_000;
  },
};

export type Connection = AsyncDisposable & { post(request: string): Promise<{ status: number; body: string }> };

export function requestOf({ port, path, token, body }: Post): string {
  const text = JSON.stringify(body);
  const head = [
    `POST ${path} HTTP/1.1`,
    `Host: 127.0.0.1:${port}`,
    `Authorization: Bearer ${token}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(text)}`,
  ];
  return `${head.join('\r\n')}\r\n\r\n${text}`;
}

/** HTTP/1.1 as far as a load needs it: keep-alive, no pipelining, answers with a length or in chunks. */
export async function openConnection(port: number): Promise<Connection> {
  const socket: Socket = connect({ host: '127.0.0.1', port, noDelay: true });
  await once(socket, 'connect');
  let received = '';
  let waiting: PromiseWithResolvers<{ status: number; body: string }> | undefined;
  socket.setEncoding('latin1');
  socket.on('error', (error) => waiting?.reject(error));
  socket.on('close', () => waiting?.reject(new Error('the server closed the connection')));
  socket.on('data', (part: string) => {
    received += part;
    const answer = readAnswer(received);
    if (!answer) return;
    received = '';
    waiting?.resolve(answer);
  });
  return {
    post(request) {
      waiting = Promise.withResolvers();
      socket.write(request);
      return waiting.promise;
    },
    async [Symbol.asyncDispose]() {
      waiting = undefined;
      socket.destroy();
    },
  };
}

/** Undefined while it is not whole. */
function readAnswer(text: string): { status: number; body: string } | undefined {
  const end = text.indexOf('\r\n\r\n');
  if (end === -1) return undefined;
  const head = text.slice(0, end).toLowerCase();
  const body = text.slice(end + 4);
  const length = /\r\ncontent-length: (\d+)/.exec(head)?.[1];
  const whole = length === undefined ? body.endsWith('0\r\n\r\n') : body.length >= Number(length);
  return whole ? { status: Number(head.slice(9, 12)), body } : undefined;
}
