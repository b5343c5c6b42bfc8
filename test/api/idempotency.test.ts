import { afterAll, beforeAll, expect, test } from 'vitest';
import { mintApiKey } from '../../api/auth.ts';
import { insertApiKey } from '../../db/api-keys.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  await api.ask('POST', '/v1/templates', {
    name: 'line',
    definition: { namePattern: '${serial}', parameters: ['serial'] },
  });
});
afterAll(() => database[Symbol.asyncDispose]());

const under = (key: string) => ({ 'idempotency-key': key });
const count = async (text: string) => {
  const [row] = await database.db.$client.unsafe<{ count: number }[]>(`select count(*)::int as count from ${text}`);
  return row?.count;
};

test('twenty identical requests at once have one effect and one answer', async () => {
  await api.ask('POST', '/v1/devices', { name: 'twin-target' });
  const send = () => api.ask('POST', '/v1/commands', { targets: 'twin-target', payload: 1 }, under('twins'));
  const answers = await Promise.all(Array.from({ length: 20 }, send));
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202));
  expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
  expect(await count('commands')).toBe(1);
  expect(await count("outbox where kind = 'start'")).toBe(1);
  expect(api.told.filter((hint) => 'orders' in hint)).toHaveLength(1);
});

test('a repeat gives the first answer, although the state has changed', async () => {
  const first = await api.ask('POST', '/v1/devices', { name: 'repeated' }, under('r'));
  await api.ask('PATCH', '/v1/devices/repeated', { attributes: { since: 'then' } });
  const second = await api.ask('POST', '/v1/devices', { name: 'repeated' }, under('r'));
  expect(second.status).toBe(201);
  expect(second.body).toEqual(first.body);
  expect(second.headers.get('idempotent-replayed')).toBe('true');
});

test('another body under the same key is refused, and so is the same body for another resource', async () => {
  await api.ask('POST', '/v1/devices', { name: 'body-1' }, under('b'));
  const other = await api.ask('POST', '/v1/devices', { name: 'body-2' }, under('b'));
  expect(other).toMatchObject({ status: 422, body: { type: 'urn:longhaul:problem:idempotency-key-reused' } });
  await api.ask('POST', '/v1/devices', { name: 'body-3' });
  expect((await api.ask('POST', '/v1/devices/body-1/block', {}, under('blk'))).status).toBe(200);
  expect((await api.ask('POST', '/v1/devices/body-3/block', {}, under('blk'))).status).toBe(422);
});

test('the key is that of one credential and one route', async () => {
  const { token, key } = mintApiKey('other');
  await insertApiKey(database.db, 'system/test', key);
  expect((await api.ask('POST', '/v1/devices', { name: 'scope-1' }, under('s'))).status).toBe(201);
  const authorization = `Bearer ${token}`;
  expect((await api.ask('POST', '/v1/devices', { name: 'scope-2' }, { ...under('s'), authorization })).status).toBe(
    201,
  );
  const template = { name: 'scope', definition: { namePattern: '${a}', parameters: ['a'] } };
  expect((await api.ask('POST', '/v1/templates', template, under('s'))).status).toBe(201);
});

test('a refusal has no effect and keeps nothing: the key is free for what is right', async () => {
  expect((await api.ask('POST', '/v1/claims', { template: 'absent' }, under('f'))).status).toBe(422);
  expect((await api.ask('POST', '/v1/claims', { template: 'line' }, under('f'))).status).toBe(201);
});

test('a repeat names the same claim, and the secret is gone from every row', async () => {
  const first = await api.ask('POST', '/v1/claims', { template: 'line' }, under('secret'));
  const second = await api.ask('POST', '/v1/claims', { template: 'line' }, under('secret'));
  expect(first.body.certificate.privateKey).toContain('PRIVATE KEY');
  expect(second.body.id).toBe(first.body.id);
  expect(second.body.certificate).toEqual({ certificatePem: first.body.certificate.certificatePem });
  const line = first.body.certificate.privateKey?.split('\n')[1] ?? 'no key';
  for (const table of ['idempotency_keys', 'certificates', 'claims', 'audit', 'outbox', 'events', 'feed']) {
    expect(
      await count(`${table} t where position('PRIVATE KEY' in t::text) > 0 or position('${line}' in t::text) > 0`),
    ).toBe(0);
  }
});

test('after a day the key is free again', async () => {
  await api.ask('POST', '/v1/devices', { name: 'aged-1' }, under('aged'));
  await database.db.$client`update idempotency_keys set created_at = now() - interval '25 hours' where key = 'aged'`;
  expect((await api.ask('POST', '/v1/devices', { name: 'aged-2' }, under('aged'))).status).toBe(201);
});

test.each(['', ' ', 'a b', 'x'.repeat(256), 'ä'])('a key of "%s" is refused', async (key) => {
  const answer = await api.ask('POST', '/v1/devices', { name: 'no' }, under(key));
  expect(answer.body.type).toBe('urn:longhaul:problem:malformed-idempotency-key');
});
