import { hash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { TLSSocket, type PeerCertificate } from 'node:tls';
import type { Logger } from 'pino';
import type { Download, DownloadRefusal } from '../db/downloads.ts';
import type { Addresses } from './addresses.ts';
import { refuse, type RefusalName } from './answers.ts';
import { rangedBody, readBody, wholeBody, type Body } from './bodies.ts';
import type { FilesMetrics } from './metrics.ts';
import type { Permissions } from './permissions.ts';
import { select } from './ranges.ts';
import { ContentGone, type Store } from './store.ts';

export type Downloads = {
  answer(request: IncomingMessage, response: ServerResponse): Promise<void>;
  /** Cuts every download under way that would be refused now. */
  review(): Promise<void>;
};

export type DownloadsDeps = {
  addresses: Pick<Addresses, 'verify'>;
  permissions: Permissions;
  store: Store;
  metrics: FilesMetrics;
  log: Pick<Logger, 'info' | 'error'>;
  /** At once; one more is told to come back. */
  downloadsMax: number;
};

/**
 * Lets devices fetch content, whole or in ranges: with an address of ours that holds, while the device may do its job
 * and has not ended it, and, where it shows a certificate, with its own. The entity tag is the digest, so that a
 * download goes on where it broke off, under another address as well.
 */
export function createDownloads(deps: DownloadsDeps): Downloads {
  const { addresses, permissions, store, metrics, log, downloadsMax } = deps;
  const underWay = new Map<ServerResponse, Download>();
  metrics.watchDownloads(() => underWay.size);

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method, url = '' } = request;
    if (method !== 'GET' && method !== 'HEAD') return no(response, 'method-not-allowed', { Allow: 'GET, HEAD' });
    const verified = addresses.verify(url);
    if ('refused' in verified) {
      return no(response, verified.refused === 'expired' ? 'address-expired' : 'address-refused');
    }
    const { sha256, ...addressed } = verified.addressed;
    if (underWay.size >= downloadsMax) return no(response, 'busy');
    const download = { ...addressed, fingerprint: fingerprintOf(request) };
    underWay.set(response, download);
    try {
      const refusal = await permissions.judge(download);
      if (refusal) return no(response, nameOf(refusal));
      const found = await store.find(sha256);
      if (!found) return no(response, 'gone');
      await send(request, response, sha256, found.size);
    } catch (error) {
      fail(response, error);
    } finally {
      underWay.delete(response);
    }
  }

  async function send(request: IncomingMessage, response: ServerResponse, sha256: string, size: number) {
    const etag = `"${sha256}"`;
    const method = request.method === 'HEAD' ? 'HEAD' : 'GET';
    const selection = select(method, { size, etag }, request.headers);
    const headers = { ETag: etag, 'Accept-Ranges': 'bytes', 'Cache-Control': 'private, no-transform' };
    if (selection.answer === 'changed') return no(response, 'changed', headers);
    if (selection.answer === 'unsatisfiable') {
      return no(response, 'unsatisfiable', { ...headers, 'Content-Range': `bytes */${size}` });
    }
    if (selection.answer === 'unchanged') {
      metrics.requests.inc({ outcome: 'unchanged' });
      return void response.writeHead(304, headers).end();
    }
    const body: Body = selection.answer === 'ranges' ? rangedBody(size, selection.ranges) : wholeBody(size);
    const digest = Buffer.from(sha256, 'hex').toString('base64');
    response.writeHead(body.status, { ...headers, ...body.headers, 'Repr-Digest': `sha-256=:${digest}:` });
    if (method === 'HEAD') response.end();
    else await stream(response, sha256, body);
    metrics.requests.inc({ outcome: body.status === 200 ? 'whole' : 'ranges' });
  }

  async function stream(response: ServerResponse, sha256: string, body: Body): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const bytes = readBody({ store, sha256, signal: gone.signal }, body.parts);
    await pipeline(async function* () {
      try {
        for await (const chunk of bytes) {
          yield chunk;
          metrics.bytes.inc(chunk.length);
        }
      } catch (error) {
        if (!gone.signal.aborted) log.error({ err: error, sha256 }, 'content could not be read to its end');
        throw error;
      }
    }, response);
  }

  function no(response: ServerResponse, name: RefusalName, headers?: Record<string, string>): void {
    metrics.requests.inc({ outcome: name });
    refuse(response, name, headers);
  }

  /** Once the answer has begun, a fault, or a client that went away, ends the connection: there is no other word for it. */
  function fail(response: ServerResponse, error: unknown): void {
    if (response.headersSent) {
      metrics.requests.inc({ outcome: 'broken-off' });
      return void response.destroy();
    }
    log.error({ err: error }, 'a download could not be answered');
    no(response, error instanceof ContentGone ? 'gone' : 'unavailable');
  }

  return {
    answer,
    async review() {
      const all = [...underWay];
      const refusals = await permissions.judgeNow(all.map(([, download]) => download));
      for (const [index, refusal] of refusals.entries()) {
        const [response, download] = all[index] ?? [];
        if (!refusal || !response || !underWay.has(response)) continue;
        log.info({ ...download, refusal }, 'a download is cut off');
        metrics.cut.inc();
        response.destroy();
      }
    },
  };
}

const names: Partial<Record<DownloadRefusal, RefusalName>> = {
  DeviceUnknown: 'device-refused',
  DeviceBlocked: 'device-refused',
  ExecutionUnknown: 'job-ended',
  ExecutionEnded: 'job-ended',
};
/** Whatever else is refused is refused for its certificate. */
const nameOf = (refusal: DownloadRefusal): RefusalName => names[refusal] ?? 'certificate-refused';

/**
 * The fingerprint of the certificate that the client shows, and has proved to have the key of; null when it shows none.
 * Whether it is one of ours, the rows say.
 */
function fingerprintOf({ socket }: IncomingMessage): string | null {
  if (!(socket instanceof TLSSocket)) return null;
  // Without a certificate it is an empty object, and null where the connection is closed already.
  const shown: Partial<PeerCertificate> | null = socket.getPeerCertificate();
  if (!shown?.raw) return null;
  return hash('sha256', shown.raw);
}
