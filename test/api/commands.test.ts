import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  for (const name of ['one', 'Two', 'three', 'blocked']) await api.ask('POST', '/v1/devices', { name });
  await api.ask('POST', '/v1/devices/blocked/block');
});
afterAll(() => database[Symbol.asyncDispose]());

const rows = (text: string) => database.db.$client.unsafe(text);
const send = (body: object) => api.ask('POST', '/v1/commands', body);

describe('a command', () => {
  test('is recorded whole before it is answered: targets, orders, transitions, lifecycle, audit', async () => {
    api.told.length = 0;
    const { status, body } = await send({ targets: ['one', 'TWO'], payload: { action: 'reboot' }, timeoutSeconds: 90 });
    expect(status).toBe(202);
    expect(body.targets).toEqual([
      { device: 'one', executionId: expect.any(String), status: 'CREATED' },
      { device: 'Two', executionId: expect.any(String), status: 'CREATED' },
    ]);
    expect(body.lifecycle).toEqual({
      workflowId: `send-command/${body.id}`,
      url: `http://ui.example/namespaces/default/workflows/send-command%2F${body.id}`,
    });
    const executions = body.targets.map(({ executionId }) => `'${executionId}'`).join();
    expect(await rows(`select from orders where id in (${executions})`)).toHaveLength(2);
    expect(await rows(`select from command_transitions where execution_id in (${executions})`)).toHaveLength(2);
    const [start] = await rows(
      `select kind, name, argument, shard from outbox where workflow_id = 'send-command/${body.id}'`,
    );
    expect(start).toMatchObject({ kind: 'start', name: 'sendCommand', argument: { commandId: body.id } });
    expect(await rows(`select from audit where subject = 'command/${body.id}'`)).toHaveLength(1);
    expect(api.told).toEqual([{ orders: expect.arrayContaining([expect.any(String), expect.any(String)]) }]);
  });

  test('to targets that are unknown or blocked names them, and nobody is sent anything', async () => {
    const before = (await rows('select from commands')).length;
    const answer = await send({ targets: ['one', 'absent', 'blocked'], payload: 1 });
    expect(answer).toMatchObject({ status: 422, body: { type: 'urn:longhaul:problem:targets-refused' } });
    expect(answer.body.errors).toEqual([
      { pointer: '/targets/1', detail: 'absent is not known' },
      { pointer: '/targets/2', detail: 'blocked is blocked' },
    ]);
    expect(await rows('select from commands')).toHaveLength(before);
  });

  test('goes to a thousand devices in one call', async () => {
    await rows(
      `insert into devices (id, name, state) select gen_random_uuid(), 'many-' || n, 'ACTIVE' from generate_series(1, 1000) n`,
    );
    const targets = Array.from({ length: 1_000 }, (_, index) => `many-${index + 1}`);
    const { status, body } = await send({ targets, payload: 'go' });
    expect(status).toBe(202);
    expect(body.targets).toHaveLength(1_000);
    expect((await api.ask('GET', `/v1/commands/${body.id}`)).body).toMatchObject({ counts: { CREATED: 1_000 } });
    expect((await send({ targets: [...targets, 'one'], payload: 'go' })).status).toBe(422);
  });

  test.each([null, false, 0, '', [], { deep: [{ er: 1.5 }] }, 'nul\u0000nul'])(
    'shows the payload %j as it was sent',
    async (payload) => {
      const { body } = await send({ targets: 'one', payload });
      expect((await api.ask('GET', `/v1/commands/${body.id}`)).body).toMatchObject({ payload });
    },
  );

  test('takes any bytes in base64', async () => {
    const payloadBase64 = Buffer.of(0, 255, 1).toString('base64');
    const { body } = await send({ targets: 'one', payloadBase64, contentType: 'application/cbor' });
    const shown = await api.ask('GET', `/v1/commands/${body.id}`);
    expect(shown.body).toMatchObject({ payloadBase64, contentType: 'application/cbor' });
    expect(await rows(`select from commands where id = '${body.id}' and format = 'cbor'`)).toHaveLength(1);
  });

  test('with a payload over its limit is answered 413', async () => {
    expect((await send({ targets: 'one', payload: 'x'.repeat(65 * 1024) })).status).toBe(413);
  });

  test.each([
    ['/targets', { targets: [] }],
    ['/targets/1', { targets: ['one', 'ONE'] }],
    ['/targets', { targets: '../one' }],
    ['/payload', { payload: undefined }],
    ['/payload', { payloadBase64: 'AA==' }],
    ['/payloadBase64', { payload: undefined, payloadBase64: '!' }],
    ['/payloadBase64', { payload: undefined, payloadBase64: Buffer.from('{"a":1,"a":2}').toString('base64') }],
    ['/contentType', { contentType: 'text/plain' }],
    ['/contentType', { contentType: 'application/json\r\nx: y' }],
    ['/timeoutSeconds', { timeoutSeconds: 0 }],
    ['/timeoutSeconds', { timeoutSeconds: 30 * 86_400 + 1 }],
    ['/timeoutSeconds', { timeoutSeconds: '60' }],
    ['/device', { device: 'one' }],
  ])('with a bad %s is refused', async (pointer, part) => {
    const answer = await send({ targets: 'one', payload: 1, ...part });
    expect(answer.status).toBe(422);
    expect(answer.body.errors.map((error) => error.pointer)).toContain(pointer);
  });
});

describe('a command that is canceled', () => {
  test('ends every open target, takes the orders back, pokes its lifecycle, and leaves what has ended', async () => {
    const { body } = await send({ targets: ['one', 'two'], payload: 1 });
    const [done, open] = body.targets.map(({ executionId }) => executionId);
    await rows(`update command_targets set status = 'SUCCEEDED', status_by = 'device' where execution_id = '${done}'`);
    const answer = await api.ask('POST', `/v1/commands/${body.id}/cancel`);
    expect(answer).toMatchObject({ status: 200, body: { counts: { SUCCEEDED: 1, CANCELED: 1 } } });
    const shown = await api.ask('GET', `/v1/commands/${body.id}`);
    expect(shown.body.targets.find(({ executionId }) => executionId === open)).toMatchObject({
      status: 'CANCELED',
      statusBy: 'service',
      transitions: [{ status: 'CREATED' }, { status: 'CANCELED', by: 'service' }],
    });
    expect(await rows(`select from orders where id = '${open}'`)).toHaveLength(0);
    const [poke] = await rows(
      `select name from outbox where workflow_id = 'send-command/${body.id}' and kind = 'signal'`,
    );
    expect(poke).toEqual({ name: 'commandProgressed' });
    expect((await api.ask('POST', `/v1/commands/${body.id}/cancel`)).status).toBe(409);
    expect((await api.ask('POST', `/v1/commands/${crypto.randomUUID()}/cancel`)).status).toBe(404);
  });
});

test('commands are found by their device, whatever the case', async () => {
  const { body } = await send({ targets: 'three', payload: 1 });
  const { items } = (await api.ask('GET', '/v1/commands?filter=device==THREE')).body;
  expect(items).toMatchObject([{ id: body.id, counts: { CREATED: 1 } }]);
});

test('a hundred commands at once are each recorded once, and one that is refused spoils no other', async () => {
  const ask = (_: unknown, index: number) => send({ targets: index % 10 ? ['one', 'two'] : 'absent', payload: index });
  const answers = await Promise.all(Array.from({ length: 100 }, ask));
  const statuses = answers.map(({ status }) => status);
  expect(statuses).toEqual(answers.map((_, index) => (index % 10 ? 202 : 422)));
  const ids = answers.flatMap(({ status, body }) => (status === 202 ? [`'${body.id}'`] : []));
  expect(await rows(`select from commands where id in (${ids.join()}) and targets = 2`)).toHaveLength(90);
  expect(await rows(`select from command_targets where command_id in (${ids.join()})`)).toHaveLength(180);
  expect(await rows(`select from commands where payload = '50'::bytea`)).toHaveLength(0);
  expect(await rows(`select from commands where id = ${ids[4]} and payload = '5'::bytea`)).toHaveLength(1);
});

test('a command that Postgres refuses is refused alone', async () => {
  await rows(`alter table commands add constraint planted check (timeout_seconds <> 66)`);
  const timeouts = Array.from({ length: 30 }, (_, index) => (index === 20 ? 66 : 60));
  const answers = await Promise.all(
    timeouts.map((timeoutSeconds) => send({ targets: 'one', payload: 1, timeoutSeconds })),
  );
  expect(answers.map(({ status }) => status)).toEqual(timeouts.map((seconds) => (seconds === 66 ? 500 : 202)));
});
