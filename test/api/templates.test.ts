import { afterAll, beforeAll, expect, test } from 'vitest';
import { templates } from '../../db/enrolment-schema.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const definition = { namePattern: 'pump-${serial}', parameters: ['serial'] };

test('a template is made, read, replaced with a new version, and deleted', async () => {
  const made = await api.ask('POST', '/v1/templates', { name: 'pumps', definition });
  expect(made).toMatchObject({
    status: 201,
    body: { version: 1, definition: { serverMadeKeys: false, lifetimeDays: 365 } },
  });
  expect((await api.ask('POST', '/v1/templates', { name: 'pumps', definition })).status).toBe(409);
  const changed = { ...definition, lifetimeDays: 30 };
  expect((await api.ask('PUT', '/v1/templates/pumps', { definition: changed })).body.version).toBe(2);
  expect((await api.ask('GET', '/v1/templates/pumps')).body.definition).toMatchObject(changed);
  expect((await api.ask('DELETE', '/v1/templates/pumps')).status).toBe(204);
  expect((await api.ask('GET', '/v1/templates/pumps')).status).toBe(404);
  expect((await api.ask('PUT', '/v1/templates/pumps', { definition })).status).toBe(404);
  expect((await api.ask('DELETE', '/v1/templates/pumps')).status).toBe(404);
});

test('a template that a claim names stays, although the claim is revoked', async () => {
  await api.ask('POST', '/v1/templates', { name: 'claimed', definition });
  const { body } = await api.ask('POST', '/v1/claims', { template: 'claimed' });
  expect(await api.ask('DELETE', '/v1/templates/claimed')).toMatchObject({ status: 409 });
  await api.ask('DELETE', `/v1/claims/${body.id}`);
  expect((await api.ask('DELETE', '/v1/templates/claimed')).status).toBe(409);
});

test.each([
  ['a pattern without a parameter', { namePattern: 'pump' }],
  ['a parameter that is not declared', { namePattern: '${other}' }],
  ['a placeholder that is not closed', { namePattern: 'pump-${serial}-${' }],
  ['a placeholder within a placeholder', { namePattern: '${se${serial}rial}' }],
  ['a path', { namePattern: '../${serial}' }],
  ['a wildcard', { namePattern: '${serial}+' }],
  ['a wildcard of many levels', { namePattern: '${serial}#' }],
  ['a NUL', { namePattern: '${serial}\u0000' }],
  ['a space', { namePattern: 'pump ${serial}' }],
  ['a start that no name has', { namePattern: '-${serial}' }],
  ['300 characters', { namePattern: `${'x'.repeat(300)}\${serial}` }],
  ['63 fixed characters', { namePattern: `${'x'.repeat(63)}\${serial}` }],
  ['a parameter declared twice', { parameters: ['serial', 'serial'] }],
  ['a parameter called __proto__', { namePattern: '${__proto__}', parameters: ['__proto__'] }],
  ['no parameters', { parameters: [] }],
  ['an attribute that reads an unknown parameter', { attributes: { line: '${nope}' } }],
  ['a configuration with a control character', { configuration: { a: '\u0007' } }],
  ['no lifetime', { lifetimeDays: 0 }],
  ['a lifetime as text', { lifetimeDays: '30' }],
  ['a field that nobody knows', { policy: {} }],
  ['a field that no certificate has', { namePattern: '${manufacturer.serial}' }],
  ['a group that is not there', { groups: ['absent'] }],
  ['a key that nobody makes', { keys: ['P-224'] }],
  ['a hook that is no web address', { hook: { url: 'file:///etc/passwd' } }],
  ['a hook with credentials in it', { hook: { url: 'https://a:b@factory.example/' } }],
])('a definition with %s is refused with a pointer', async (_, part) => {
  const answer = await api.ask('POST', '/v1/templates', { name: 'hostile', definition: { ...definition, ...part } });
  expect(answer.status).toBe(422);
  expect(answer.body.errors.every(({ pointer }) => pointer?.startsWith('/definition'))).toBe(true);
});

test('the secret of a hook is shown when it is made, and never again', async () => {
  const hook = { url: 'https://factory.example/hook' };
  const headers = { 'idempotency-key': crypto.randomUUID() };
  const request = { name: 'hooked', definition: { ...definition, hook } };
  const secretOf = ({ body }: { body: object }) => ('hookSecret' in body ? String(body.hookSecret) : undefined);
  const first = secretOf(await api.ask('POST', '/v1/templates', request, headers));
  expect(first).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  expect(secretOf(await api.ask('POST', '/v1/templates', request, headers))).toBeUndefined();
  expect((await api.ask('GET', '/v1/templates/hooked')).text).not.toContain('whsec');
  const replacement = { definition: request.definition };
  expect(secretOf(await api.ask('PUT', '/v1/templates/hooked', replacement))).toBeUndefined();
  const second = secretOf(await api.ask('POST', '/v1/templates/hooked/hook-secret'));
  expect(second).toMatch(/^whsec_/);
  expect(second).not.toBe(first);
  await api.ask('PUT', '/v1/templates/hooked', { definition });
  expect((await api.ask('POST', '/v1/templates/hooked/hook-secret')).status).toBe(409);
  expect((await api.ask('POST', '/v1/templates/absent/hook-secret')).status).toBe(404);
});

test('a template that was written before reads as what it meant', async () => {
  const before = { attributes: {}, configuration: {}, lifetimeDays: 365, serverMadeKeys: false };
  await database.db.insert(templates).values({ name: 'old', definition: { ...definition, ...before } });
  const { body } = await api.ask('GET', '/v1/templates/old');
  expect(body.definition).toMatchObject({ existing: 'reject', approval: false, groups: [], hook: null });
  const made = await api.ask('POST', '/v1/templates', { name: 'new', definition });
  expect(made.body.definition).toMatchObject({ existing: 'approve' });
});
