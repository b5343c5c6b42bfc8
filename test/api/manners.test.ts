import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mintApiKey } from '../../api/auth.ts';
import { insertApiKey, revokeApiKey } from '../../db/api-keys.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const post = (body: string | Uint8Array<ArrayBuffer>, type: string | undefined = 'application/json') =>
  api.send('POST', '/v1/devices', {
    headers: { authorization: `Bearer ${api.token}`, ...(type && { 'content-type': type }) },
    body,
  });

const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });

describe('a key', () => {
  test('is asked for by every route but health and the public trust files', async () => {
    const { paths } = (await api.ask('GET', '/v1/openapi.json')).body;
    const open: string[] = [];
    for (const [path, methods] of Object.entries(paths)) {
      for (const method of Object.keys(methods)) {
        const answer = await api.send(method.toUpperCase(), path.replaceAll(/\{\w+\}/g, 'x'));
        if (answer.status !== 401 || !answer.headers.has('www-authenticate')) open.push(`${method} ${path}`);
      }
    }
    expect(open).toEqual(['get /healthz', 'get /readyz']);
    expect((await api.send('GET', '/authorities.pem')).text).toMatch(/^-----BEGIN CERTIFICATE-----/);
    expect((await api.send('GET', '/v1/openapi.json')).status).toBe(401);
    expect((await api.send('GET', '/v1/nowhere')).status).toBe(401);
  });

  test('is refused when one character differs, when it is of another shape, and when nobody made it', async () => {
    const last = api.token.at(-1) === 'A' ? 'B' : 'A';
    const wrong = [
      api.token.slice(0, -1) + last,
      `${api.token}=`,
      api.token.toUpperCase(),
      '',
      'lh_',
      mintApiKey('x').token,
    ];
    for (const token of wrong) expect((await api.send('GET', '/v1/devices', bearer(token))).status).toBe(401);
    const basic = { headers: { authorization: `Basic ${api.token}` } };
    expect((await api.send('GET', '/v1/devices', basic)).status).toBe(401);
    expect((await api.send('GET', '/v1/devices', bearer(api.token))).status).toBe(200);
  });

  test('dies within about a second of its revocation', async () => {
    const { token, key } = mintApiKey('short-lived');
    await insertApiKey(database.db, 'system/test', key);
    expect((await api.send('GET', '/v1/devices', bearer(token))).status).toBe(200);
    await revokeApiKey(database.db, 'system/test', key.id);
    const revokedAt = performance.now();
    await eventually(async () => expect((await api.send('GET', '/v1/devices', bearer(token))).status).toBe(401));
    expect(performance.now() - revokedAt).toBeLessThan(2_000);
  });

  test('is in no row', async () => {
    const rows = await database.db.$client.unsafe('select a::text as row from api_keys a');
    const [, , secret = ''] = api.token.split('_');
    expect(JSON.stringify(rows)).not.toContain(secret);
    expect(JSON.stringify(rows)).not.toContain(Buffer.from(secret).toString('hex'));
  });

  test('that asks too fast is told when to come back, and others are not held up', async () => {
    const slow = await makeApi(database.db, {
      limits: { bodyBytes: 1_000, artifactBytes: 1_000, registrationBytes: 1_000, requestsPerSecond: 2 },
      authority: api.authority,
    });
    const other = mintApiKey('other');
    await insertApiKey(database.db, 'system/test', other.key);
    const statuses = [];
    for (let i = 0; i < 3; i++) statuses.push((await slow.ask('GET', '/v1/templates')).status);
    expect(statuses).toEqual([200, 200, 429]);
    expect((await slow.ask('GET', '/v1/templates')).headers.get('retry-after')).toBe('1');
    expect((await slow.send('GET', '/v1/templates', bearer(other.token))).status).toBe(200);
  });
});

describe('a body', () => {
  const device = JSON.stringify({ name: 'body-device' });

  test.each([
    ['is cut short', '{"name":'],
    ['is no JSON', 'name=pump'],
    ['has a trailing comma', '{"name":"a",}'],
    ['names a field twice', '{"name":"a","name":"b"}'],
    ['names a field twice, once with an escape', '{"name":"a","na\\u006de":"b"}'],
    ['names __proto__', '{"name":"a","__proto__":{"admin":true}}'],
    ['nests too deep', `{"name":${'['.repeat(33)}${']'.repeat(33)}}`],
    ['is a depth bomb', '['.repeat(100_000)],
    ['has a number that a double changes', '{"name":12345678901234567890}'],
    ['has a number beyond all numbers', '{"name":1e999}'],
    ['has half of a surrogate pair', '{"name":"\\ud800"}'],
  ])('that %s is answered 400', async (_, body) => {
    const answer = await post(body);
    expect(answer).toMatchObject({ status: 400, body: { type: 'urn:longhaul:problem:malformed-json', status: 400 } });
    expect(answer.headers.get('content-type')).toBe('application/problem+json');
  });

  test('that is not UTF-8 is answered 400', async () => {
    expect((await post(Uint8Array.of(0x22, 0xff, 0x22))).status).toBe(400);
  });

  test.each([
    'text/plain',
    'application/xml',
    'application/json; charset=latin1',
    'multipart/form-data; boundary=x',
    '',
  ])('of media type "%s" is answered 415', async (type) => {
    expect((await post(Buffer.from(device), type)).body.type).toBe('urn:longhaul:problem:unsupported-media-type');
  });

  test.each(['application/json', 'application/json; charset=utf-8', 'Application/JSON;charset="UTF-8"'])(
    'of media type %s is taken',
    async (type) => {
      expect((await post(JSON.stringify({ name: `t-${type.length}` }), type)).status).toBe(201);
    },
  );

  test('over the limit is answered 413, announced or not, and costs the neighbour nothing', async () => {
    const large = JSON.stringify({ name: 'a', attributes: { text: 'x'.repeat(1024 * 1024) } });
    expect((await post(large)).status).toBe(413);
    const stream = new Blob([large]).stream();
    const headers = { authorization: `Bearer ${api.token}`, 'content-type': 'application/json' };
    const chunked = { method: 'POST', headers, body: stream, duplex: 'half' } as RequestInit;
    expect((await api.app.request('/v1/devices', chunked)).status).toBe(413);
    expect(
      (
        await api.app.request('/v1/devices', {
          ...chunked,
          headers: { ...headers, 'content-length': '9999999' },
          body: 'x',
        })
      ).status,
    ).toBe(413);
    expect((await api.ask('GET', '/v1/devices')).status).toBe(200);
  });

  test('with faults is answered 422 with a pointer to each of them', async () => {
    const answer = await api.ask('POST', '/v1/devices', { name: '../x', attributes: { 'a/b': 'c' }, admin: true });
    expect(answer).toMatchObject({ status: 422, body: { title: 'The body breaks a rule' } });
    expect(answer.body.errors.map(({ pointer = '' }) => pointer).toSorted((a, b) => a.localeCompare(b))).toEqual([
      '/admin',
      '/attributes/a~1b',
      '/name',
    ]);
  });

  test.each(['', '{}', '[]', 'null', '"x"', '5'])('of %s, where fields are needed, is answered 422', async (body) => {
    expect((await api.ask('POST', '/v1/devices', body)).status).toBe(422);
  });
});

describe('a problem', () => {
  test('of an unknown route or method is one like any other', async () => {
    const answer = await api.ask('GET', '/v1/nowhere');
    expect(answer).toMatchObject({ status: 404, body: { type: 'urn:longhaul:problem:not-found', status: 404 } });
    expect((await api.ask('DELETE', '/v1/devices')).status).toBe(404);
  });

  test('that nobody expected says nothing of its cause, and is reported', async () => {
    const secret = 'postgres://planted-secret';
    const authority = { ...api.authority, issue: () => Promise.reject(new Error(secret)) };
    const broken = await makeApi(database.db, { authority });
    await broken.ask('POST', '/v1/templates', {
      name: 'broken',
      definition: { namePattern: '${a}', parameters: ['a'] },
    });
    const answer = await broken.ask('POST', '/v1/claims', { template: 'broken' });
    expect(answer).toMatchObject({ status: 500, body: { type: 'urn:longhaul:problem:internal' } });
    expect(answer.text).not.toMatch(/planted|stack|\.ts|select/);
    expect(broken.reported).toEqual([expect.objectContaining({ message: secret })]);
  });
});
