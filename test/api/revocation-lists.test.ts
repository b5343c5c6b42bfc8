import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { publishRevocationList } from '../../activities/revocation-lists.ts';
import { findRevocationList } from '../../db/revocation-lists.ts';
import { revocationLists } from '../../db/revocation-schema.ts';
import { authorities } from '../../db/schema.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
let api: Awaited<ReturnType<typeof makeApi>>;
let path: string;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  api = await makeApi(database.db, { authority: fleet.authority });
  path = `/crl/${fleet.authority.id}.crl`;
  await publish();
});
afterAll(() => database[Symbol.asyncDispose]());

const publish = () => publishRevocationList(database.db, fleet.authority);
const get = (headers: Record<string, string> = {}, from = path) => api.app.request(from, { headers });

describe('a revocation list', () => {
  test('is read by anybody, in DER, and may be kept until a newer one is likely', async () => {
    const response = await get();
    const row = await findRevocationList(database.db, fleet.authority.id);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('application/pkix-crl');
    expect(Buffer.from(await response.arrayBuffer())).toEqual(Buffer.from(row?.der ?? []));
    expect(response.headers.get('last-modified')).toBe(row?.publishedAt.toUTCString());
    expect(response.headers.get('expires')).toBe(row?.nextUpdate.toUTCString());
    expect(response.headers.get('cache-control')).toBe('public, max-age=300');
  });

  test('is not sent to who has it: by its tag, in any list of them, or by its date', async () => {
    const first = await get();
    const etag = first.headers.get('etag') ?? '';
    expect(etag).toMatch(/^"[^"]+"$/);
    for (const known of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
      const again = await get({ 'if-none-match': known });
      expect([again.status, again.headers.get('etag'), await again.text()]).toEqual([304, etag, '']);
    }
    const date = first.headers.get('last-modified') ?? '';
    expect((await get({ 'if-modified-since': date })).status).toBe(304);
    expect((await get({ 'if-modified-since': date, 'if-none-match': '"other"' })).status).toBe(200);
    expect((await get({ 'if-modified-since': 'yesterday' })).status).toBe(200);
  });

  test('has another tag when it is another, and is the new one for everybody', async () => {
    const before = (await get()).headers.get('etag') ?? '';
    await publish();
    const after = await get({ 'if-none-match': before });
    expect(after.status).toBe(200);
    expect(after.headers.get('etag')).not.toBe(before);
    const row = await findRevocationList(database.db, fleet.authority.id);
    expect(Buffer.from(await after.arrayBuffer())).toEqual(Buffer.from(row?.der ?? []));
  });

  test('that is near its end is kept no longer than it is good', async () => {
    const end = (ms: number) => database.db.update(revocationLists).set({ nextUpdate: new Date(Date.now() + ms) });
    await end(-60_000);
    await publish();
    await end(-60_000);
    const api2 = await makeApi(database.db, { authority: fleet.authority });
    expect((await api2.app.request(path)).headers.get('cache-control')).toBe('public, max-age=0');
    await publish();
  });

  test.each([
    '/crl/nobody.crl',
    '/crl/019ab7de-0000-7000-8000-000000000000.crl',
    '/crl/',
    '/crl/..%2fv1',
    '/crl/x.pem',
  ])('of nobody is not there: %s', async (other) => {
    const response = await get({}, other);
    expect([401, 404]).toContain(response.status);
    expect(response.headers.get('content-type')).toBe('application/problem+json');
  });
});

test('the authorities are read by anybody, the root first, without one that is revoked', async () => {
  const response = await get({}, '/authorities.pem');
  expect(await response.text()).toBe(fleet.authority.rootPem + fleet.authority.certificatePem);
  const etag = response.headers.get('etag') ?? '';
  expect((await get({ 'if-none-match': etag }, '/authorities.pem')).status).toBe(304);
  await database.db.update(authorities).set({ state: 'REVOKED' }).where(eq(authorities.id, fleet.authority.id));
  const without = await get({ 'if-none-match': etag }, '/authorities.pem');
  expect(await without.text()).toBe(fleet.authority.rootPem);
  await database.db.update(authorities).set({ state: 'ACTIVE' }).where(eq(authorities.id, fleet.authority.id));
});
