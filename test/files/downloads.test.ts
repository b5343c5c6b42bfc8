import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { executions } from '../../db/rollout-schema.ts';
import { certificates, devices } from '../../db/schema.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { fetchAll, makeDownloadOf, open, startTestFiles, storeContent, type FilesRig } from '../support/files.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
let files: FilesRig;
const content = randomBytes(3_000_000);
let sha256: string;

beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  const { rootPem, certificatePem } = fleet.authority;
  files = await startTestFiles({
    db: database.db,
    tls: { ...fleet.server, authoritiesPem: [rootPem, certificatePem] },
  });
  sha256 = await storeContent(files.store, content);
});
afterAll(async () => {
  await files[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

const get = (address: string, options: Parameters<typeof fetchAll>[1] = {}) =>
  fetchAll(address, { ca: fleet.authority.rootPem, ...options });

const makeDownload = () => makeDownloadOf(fleet, files, sha256);

describe('a device', () => {
  test('fetches its content whole, and learns its digest and that it may ask for parts', async () => {
    const { address } = await makeDownload();
    const { status, headers, body } = await get(address);
    expect(status).toBe(200);
    expect(body.equals(content)).toBe(true);
    expect(headers).toMatchObject({
      etag: `"${sha256}"`,
      'accept-ranges': 'bytes',
      'content-length': String(content.length),
      'content-type': 'application/octet-stream',
      'repr-digest': `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`,
    });
  });

  test('asks for its length without fetching it, also with a range', async () => {
    const { address } = await makeDownload();
    const { status, headers, body } = await get(address, { method: 'HEAD', headers: { range: 'bytes=0-1' } });
    expect({ status, length: headers['content-length'], body: body.length }).toEqual({
      status: 200,
      length: String(content.length),
      body: 0,
    });
  });

  test('goes on where its connection broke, under another address as well', async () => {
    const { address, addressed } = await makeDownload();
    const first = await open(address, { ca: fleet.authority.rootPem });
    const [chunk] = (await once(first.response, 'data')) as [Buffer];
    first.request.destroy();
    const headers = { range: `bytes=${chunk.length}-`, 'if-range': String(first.headers.etag) };
    const rest = await get(files.addresses.sign(addressed), { headers });
    expect(rest.status).toBe(206);
    expect(rest.headers['content-range']).toBe(`bytes ${chunk.length}-${content.length - 1}/${content.length}`);
    expect(Buffer.concat([chunk, rest.body]).equals(content)).toBe(true);
  });

  test('whose copy is of other content gets the whole of this one', async () => {
    const { address } = await makeDownload();
    const headers = { range: 'bytes=10-', 'if-range': `"${'0'.repeat(64)}"` };
    const { status, body } = await get(address, { headers });
    expect({ status, whole: body.equals(content) }).toEqual({ status: 200, whole: true });
  });

  test('that has it is told so without a byte of it', async () => {
    const { address } = await makeDownload();
    expect(await get(address, { headers: { 'if-none-match': `"${sha256}"` } })).toMatchObject({ status: 304 });
    expect(await get(address, { headers: { 'if-match': '"other"' } })).toMatchObject({
      status: 412,
      problem: 'changed',
    });
  });

  test('that asks for more than there is learns how much there is', async () => {
    const { address } = await makeDownload();
    const answer = await get(address, { headers: { range: `bytes=${content.length}-` } });
    expect(answer).toMatchObject({ status: 416, problem: 'unsatisfiable' });
    expect(answer.headers['content-range']).toBe(`bytes */${content.length}`);
  });

  test('gets several ranges in one answer, each said where it is from', async () => {
    const { address } = await makeDownload();
    const { status, headers, body } = await get(address, { headers: { range: 'bytes=0-99,2000000-2000049,-10' } });
    expect(status).toBe(206);
    expect(Number(headers['content-length'])).toBe(body.length);
    const boundary = /^multipart\/byteranges; boundary=(.+)$/.exec(headers['content-type'] ?? '')?.[1] ?? '';
    const parts = body.toString('latin1').split(`--${boundary}`);
    expect(parts.at(-1)).toBe('--\r\n');
    const read = parts.slice(1, -1).map((part) => {
      const [head = '', bytes = ''] = part.split(/\r\n\r\n(.*)\r\n$/s);
      return { range: /Content-Range: (.*)/.exec(head)?.[1], bytes: Buffer.from(bytes, 'latin1') };
    });
    const total = content.length;
    expect(read).toEqual([
      { range: `bytes 0-99/${total}`, bytes: content.subarray(0, 100) },
      { range: `bytes 2000000-2000049/${total}`, bytes: content.subarray(2_000_000, 2_000_050) },
      { range: `bytes ${total - 10}-${total - 1}/${total}`, bytes: content.subarray(-10) },
    ]);
  });

  test('fetches what is empty', async () => {
    const { addressed } = await makeDownload();
    const empty = await storeContent(files.store, Buffer.alloc(0));
    expect(await get(files.addresses.sign({ ...addressed, sha256: empty }))).toMatchObject({
      status: 200,
      headers: { 'content-length': '0' },
    });
  });
});

describe('nothing is given', () => {
  const refused = async (address: string, problem: string, options = {}) => {
    const answer = await get(address, options);
    expect(answer).toMatchObject({ status: 403, problem });
    expect(answer.body.includes(content.subarray(0, 16))).toBe(false);
  };

  test('for an address that is changed to another device, job, content or time', async () => {
    const mine = await makeDownload();
    const other = await makeDownload();
    const secret = await storeContent(files.store, randomBytes(100));
    await refused(mine.address.replace(mine.device.deviceId, other.device.deviceId), 'address-refused');
    await refused(mine.address.replace(mine.jobId, other.jobId), 'address-refused');
    await refused(mine.address.replace(sha256, secret), 'address-refused');
    await refused(mine.address.replace(/expires=\d+/, 'expires=99999999999'), 'address-refused');
    await refused(mine.address.split('?')[0] ?? '', 'address-refused');
    await refused(mine.address.replace(/signature=.*/, 'signature='), 'address-refused');
  });

  test('for an address that has expired', async () => {
    await using shortLived = await startTestFiles({ db: database.db, store: files.store, lifetimeSeconds: 1 });
    const { addressed } = await makeDownload();
    const address = shortLived.addresses.sign(addressed);
    expect(await fetchAll(address)).toMatchObject({ status: 200 });
    await eventually(async () => {
      expect(await fetchAll(address)).toMatchObject({ status: 403, problem: 'address-expired' });
    });
  });

  test('to a device that is blocked, until it is not, and to one that is gone', async () => {
    const { device, address, addressed } = await makeDownload();
    const byId = eq(devices.id, device.deviceId);
    await database.db.update(devices).set({ state: 'BLOCKED' }).where(byId);
    await refused(address, 'device-refused');
    await database.db.update(devices).set({ state: 'ACTIVE' }).where(byId);
    expect(await get(address)).toMatchObject({ status: 200 });
    await refused(files.addresses.sign({ ...addressed, deviceId: randomUUID() }), 'device-refused');
  });

  test('once the job has ended on the device, and again while it is tried another time', async () => {
    const { device, jobId, address, addressed } = await makeDownload();
    const { deviceId } = device;
    await database.db
      .update(executions)
      .set({ status: 'SUCCEEDED', endedAt: new Date() })
      .where(eq(executions.jobId, jobId));
    await refused(address, 'job-ended');
    await refused(files.addresses.sign({ ...addressed, jobId: randomUUID() }), 'job-ended');
    await database.db.insert(executions).values({ jobId, deviceId, attempt: 2, status: 'QUEUED' });
    expect(await get(address)).toMatchObject({ status: 200 });
  });

  test('to who shows the certificate of another device, a revoked one, one that is no device’s, or a stranger’s', async () => {
    const { device, address } = await makeDownload();
    expect(await get(address, { credentials: device })).toMatchObject({ status: 200 });
    await refused(address, 'certificate-refused', { credentials: await fleet.makeDevice() });
    await refused(address, 'certificate-refused', { credentials: await fleet.makeService() });
    await refused(address, 'certificate-refused', { credentials: await fleet.makeClaim() });
    const strangers = await createFleet((await ownDatabase()).db);
    await refused(address, 'certificate-refused', { credentials: await strangers.makeDevice() });
    await database.db.update(certificates).set({ state: 'REVOKED' }).where(eq(certificates.id, device.certificateId));
    await refused(address, 'certificate-refused', { credentials: device });
    expect(await get(address)).toMatchObject({ status: 200 });
  });

  const owned: TestDatabase[] = [];
  afterAll(() => Promise.all(owned.map((own) => own[Symbol.asyncDispose]())));
  async function ownDatabase(): Promise<TestDatabase> {
    const own = await makeDatabase();
    owned.push(own);
    return own;
  }

  test('of what was never stored', async () => {
    const { addressed } = await makeDownload();
    const address = files.addresses.sign({ ...addressed, sha256: '0'.repeat(64) });
    expect(await get(address)).toMatchObject({ status: 404, problem: 'gone' });
  });

  test.each(['POST', 'PUT', 'DELETE', 'OPTIONS'])('to a %s', async (method) => {
    const { address } = await makeDownload();
    expect(await get(address, { method })).toMatchObject({ status: 405, headers: { allow: 'GET, HEAD' } });
  });

  test.each([
    '/',
    '/artifacts',
    '/artifacts/../../etc/passwd',
    '/%2e%2e/etc/passwd',
    '//',
    '/v1/artifacts',
    '/metrics',
  ])('under %s', async (path) => {
    const { status } = await get(`https://127.0.0.1:${files.port}${path}`);
    expect([403, 404]).toContain(status);
  });
});
