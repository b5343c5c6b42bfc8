import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { request as requestPlain, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { json } from 'node:stream/consumers';
import { createAdaptorServer } from '@hono/node-server';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { openFileSystem } from '../../files/file-system.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const bytesMax = 4 * 1024 * 1024;
const folder = () => join(inject('folder'), 'api-artifacts');
let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
let server: ReturnType<typeof createAdaptorServer>;
let port: number;

beforeAll(async () => {
  database = await makeDatabase();
  const limits = { bodyBytes: 1_024, artifactBytes: bytesMax, registrationBytes: 1_024, requestsPerSecond: 100_000 };
  api = await makeApi(database.db, { store: await openFileSystem(folder()), limits });
  server = createAdaptorServer({ fetch: api.app.fetch });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  ({ port } = server.address() as AddressInfo);
});
afterAll(async () => {
  server.close();
  await database[Symbol.asyncDispose]();
});

const digestOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const octets = { 'content-type': 'application/octet-stream' };
type Options = { headers?: Record<string, string>; chunked?: boolean };

/** A request over a socket, as a program would make it. */
function begin(sha256: string, { headers = octets, chunked = false }: Options, size?: number) {
  const request = requestPlain({
    port,
    host: '127.0.0.1',
    method: 'PUT',
    path: `/v1/artifacts/${sha256}`,
    agent: false,
    headers: {
      authorization: `Bearer ${api.token}`,
      ...headers,
      ...(chunked && { 'transfer-encoding': 'chunked' }),
      ...(!chunked && size !== undefined && { 'content-length': String(size) }),
    },
  });
  // A server that has said no may close before it has read all.
  request.on('error', () => {});
  return request;
}

async function put(sha256: string, bytes: Uint8Array, options: Options = {}) {
  const request = begin(sha256, options, bytes.length);
  const answered = once(request, 'response') as Promise<[IncomingMessage]>;
  request.end(bytes);
  const [response] = await answered;
  return { status: response.statusCode, body: (await json(response)) as Record<string, unknown> };
}

/** Whatever is in the store, finished or not. */
const listFiles = async () => {
  const entries = await readdir(folder(), { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
};

describe('an artifact', () => {
  test.each([0, 1, 3_000_000, bytesMax])(
    'of %i bytes is stored under its digest, and the same again is harmless',
    async (size) => {
      const bytes = randomBytes(size);
      const sha256 = digestOf(bytes);
      const first = await put(sha256, bytes);
      expect(first).toMatchObject({ status: 201, body: { sha256, size } });
      expect(await put(sha256, bytes, { chunked: true })).toEqual({ status: 200, body: first.body });
      expect((await api.ask('GET', `/v1/artifacts/${sha256}`)).body).toEqual(first.body);
      expect(await api.store.find(sha256)).toEqual({ size });
      const entries = (await api.ask('GET', `/v1/audit?filter=subject==artifact/${sha256}`)).body.items;
      expect(entries).toMatchObject([{ action: 'artifact.stored', data: { size }, actor: `api-key/${api.key.id}` }]);
    },
  );

  test('stored by several at once is stored once', async () => {
    const bytes = randomBytes(500_000);
    const answers = await Promise.all([1, 2, 3, 4].map(() => put(digestOf(bytes), bytes)));
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(3);
    expect((await listFiles()).filter((name) => name === digestOf(bytes))).toHaveLength(1);
  });

  test('is listed, the youngest first, page by page', async () => {
    const stored: string[] = [];
    for (let index = 0; index < 5; index += 1) {
      const bytes = randomBytes(10);
      stored.unshift(digestOf(bytes));
      await put(digestOf(bytes), bytes);
    }
    const seen: string[] = [];
    for (let next: string | undefined = '/v1/artifacts?limit=2'; next && seen.length < 5;) {
      const { headers, body } = await api.ask('GET', next);
      seen.push(...body.items.map(({ sha256 }) => String(sha256)));
      next = /<(.*)>; rel="next"/.exec(headers.get('link') ?? '')?.[1];
    }
    expect(new Set(seen.slice(0, 5))).toEqual(new Set(stored));
    const [digest = ''] = stored;
    const found = await api.ask('GET', `/v1/artifacts?filter=sha256==${digest}`);
    expect(found.body.items).toMatchObject([{ sha256: digest, size: 10 }]);
  });

  test('that is not here is not found', async () => {
    expect((await api.ask('GET', `/v1/artifacts/${'0'.repeat(64)}`)).status).toBe(404);
    expect((await api.ask('GET', '/v1/artifacts/..%2f..%2fetc%2fpasswd')).status).toBe(404);
  });
});

describe('an upload is refused, and leaves nothing,', () => {
  const leavesNothing = async (sha256: string, work: () => Promise<unknown>) => {
    const before = await listFiles();
    await work();
    await eventually(async () => expect(await listFiles()).toEqual(before));
    expect((await api.ask('GET', `/v1/artifacts/${sha256}`)).status).toBe(404);
  };

  test.each([false, true])('when its digest is another (chunked: %s)', async (chunked) => {
    const bytes = randomBytes(1_000_000);
    const sha256 = digestOf(randomBytes(10));
    await leavesNothing(sha256, async () => {
      const answer = await put(sha256, bytes, { chunked });
      expect(answer).toMatchObject({ status: 422, body: { type: 'urn:longhaul:problem:content-refused' } });
      expect(answer.body['detail']).toContain(digestOf(bytes));
    });
  });

  test('when it is another one than what is here under this digest', async () => {
    const bytes = randomBytes(1_000);
    await put(digestOf(bytes), bytes);
    expect((await put(digestOf(bytes), randomBytes(1_000))).status).toBe(422);
    expect((await put(digestOf(bytes), bytes)).status).toBe(200);
  });

  test('when it breaks off, announced or not', async () => {
    const bytes = randomBytes(2_000_000);
    const sha256 = digestOf(bytes);
    for (const chunked of [false, true]) {
      await leavesNothing(sha256, async () => {
        const request = begin(sha256, { chunked }, bytes.length);
        request.write(bytes.subarray(0, 1_500_000));
        await eventually(async () => (await listFiles()).some((name) => name.startsWith(`${sha256}.`)));
        request.destroy();
      });
    }
    expect(api.reported).toEqual([]);
    expect((await put(sha256, bytes)).status).toBe(201);
  });

  test('when it is larger than may be, announced or not', async () => {
    const bytes = randomBytes(bytesMax + 1);
    for (const chunked of [false, true]) {
      await leavesNothing(digestOf(bytes), async () => {
        const answer = await put(digestOf(bytes), bytes, { chunked });
        expect(answer).toMatchObject({ status: 413, body: { type: 'urn:longhaul:problem:too-large' } });
      });
    }
  });

  test.each([
    [{}],
    [{ 'content-type': 'application/json' }],
    [{ 'content-type': 'multipart/form-data; boundary=x' }],
    [{ 'content-type': 'application/octet-stream; charset=utf-8' }],
  ])('when its media type is not the one: %j', async (headers: Record<string, string>) => {
    const bytes = randomBytes(10);
    await leavesNothing(digestOf(bytes), async () => {
      const answer = await put(digestOf(bytes), bytes, { headers });
      expect(answer).toMatchObject({ status: 415, body: { type: 'urn:longhaul:problem:unsupported-media-type' } });
    });
  });

  test.each(['x', 'A'.repeat(64), '0'.repeat(63), '0'.repeat(65), '..%2f..%2fetc%2fpasswd', '%00'.repeat(64)])(
    'under a name that is no digest: %s',
    async (name) => {
      expect((await put(name, Buffer.from('x'))).status).toBe(404);
    },
  );

  test('without a key', async () => {
    const bytes = randomBytes(10);
    const headers = { ...octets, authorization: 'Bearer lh_x' };
    expect((await put(digestOf(bytes), bytes, { headers })).status).toBe(401);
  });
});

test('a store that fails is an error of ours, without its text', async () => {
  const store = { ...api.store, write: () => Promise.reject(new Error('/secret/path: disk full')) };
  const broken = await makeApi(database.db, { store, authority: api.authority });
  const answer = await broken.send('PUT', `/v1/artifacts/${digestOf(Buffer.from('y'))}`, {
    headers: { authorization: `Bearer ${broken.token}`, ...octets },
    body: 'y',
  });
  expect(answer).toMatchObject({ status: 500, body: { type: 'urn:longhaul:problem:internal' } });
  expect(answer.text).not.toContain('secret');
  expect(broken.reported).toHaveLength(1);
});
