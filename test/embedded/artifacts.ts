import { once } from 'node:events';
import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { contentOf, type Content } from './releases.ts';

export type Asked = { path: string; range: string | undefined };

export type Artifacts = AsyncDisposable & {
  url: string;
  put(bytes: Buffer): Content & { url: string };
  /** Every request for this content, in order. */
  asked(content: Pick<Content, 'sha256'>): Asked[];
  /** May answer a request itself, and then returns true. */
  intercept(take: ((request: Asked, answer: ServerResponse) => boolean) | undefined): void;
};

/** An HTTP server that gives files and ranges of them (RFC 9110 14), and can be made to misbehave. */
export async function serveArtifacts(tls?: { cert: string; key: string }): Promise<Artifacts> {
  const contents = new Map<string, Content>();
  const requests: Asked[] = [];
  let intercept: Parameters<Artifacts['intercept']>[0];
  const answer: RequestListener = (request, response) => {
    const asked = { path: request.url ?? '', range: request.headers.range };
    requests.push(asked);
    if (!intercept?.(asked, response)) give(contents.get(sha256Of(asked.path)), asked.range, response);
  };
  const server: Server = tls ? createSecureServer(tls, answer) : createServer(answer);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // It listens on a port, so this is no path of a socket.
  const { port } = server.address() as AddressInfo;
  const base = `${tls ? 'https://localhost' : 'http://127.0.0.1'}:${port}`;
  return {
    url: base,
    put(bytes) {
      const content = contentOf(bytes);
      contents.set(content.sha256, content);
      return { ...content, url: `${base}/artifacts/${content.sha256}` };
    },
    asked: ({ sha256 }) => requests.filter(({ path }) => sha256Of(path) === sha256),
    intercept: (take) => (intercept = take),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

const sha256Of = (path: string) => /\/artifacts\/([0-9a-f]{64})/.exec(path)?.[1] ?? '';

function give(content: Content | undefined, range: string | undefined, response: ServerResponse): void {
  if (!content) return void response.writeHead(404).end();
  const { bytes, size } = content;
  const from = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
  if (from >= size && from > 0) return void response.writeHead(416, { 'content-range': `bytes */${size}` }).end();
  const head = { 'content-length': size - from, 'content-range': `bytes ${from}-${size - 1}/${size}` };
  response.writeHead(range === undefined ? 200 : 206, head).end(bytes.subarray(from));
}
