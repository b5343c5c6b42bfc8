import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mintApiKey } from '../../api/auth.ts';
import { insertApiKey } from '../../db/api-keys.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { makeCrowd, makeDevices, makeLedger } from '../support/rollouts.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
let ledger: ReturnType<typeof makeLedger>;
const keys: Record<string, { authorization: string; actor: string }> = {};
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  ledger = makeLedger(database);
  await makeDevices(database.db, 3);
  for (const name of ['second', 'third']) {
    const { token, key } = mintApiKey(name);
    await insertApiKey(database.db, 'system/test', key);
    keys[name] = { authorization: `Bearer ${token}`, actor: `api-key/${key.id}` };
  }
});
afterAll(() => database[Symbol.asyncDispose]());

const as = (name: string): Record<string, string> => {
  const { authorization } = keys[name] ?? {};
  return authorization === undefined ? {} : { authorization };
};

/** A rollout that needs approval. */
async function create(plan: object = {}) {
  const asked = {
    name: 'two persons',
    job: { document: { do: 'it' } },
    targets: { filter: 'name==*' },
    approval: true,
  };
  const { body } = await api.ask('POST', '/v1/rollouts', { ...asked, ...plan });
  return body;
}
async function enlisted(plan: object = {}) {
  const { id, planHash } = await create(plan);
  await ledger.enlist(id);
  return { id, planHash };
}
type Asked = { id: string; planHash: string };
const judge = (verb: string, { id, planHash }: Asked, name = '') =>
  api.ask('POST', `/v1/rollouts/${id}/${verb}`, { planHash }, as(name));
const change = (id: string, inFlightMax: number, name = '') =>
  api.ask('PATCH', `/v1/rollouts/${id}`, { pace: { inFlightMax } }, as(name));
const find = async (id: string) => (await api.ask('GET', `/v1/rollouts/${id}`)).body;
const review = async (id: string) => (await ledger.review(id)).status;

describe('an approval', () => {
  test('is another credential’s, and the rollout does not begin before it', async () => {
    const asked = await enlisted();
    expect(await review(asked.id)).toBe('WAITING_FOR_APPROVAL');
    expect(await judge('approve', asked)).toMatchObject({
      status: 403,
      body: { type: 'urn:longhaul:problem:forbidden' },
    });
    expect(await review(asked.id)).toBe('WAITING_FOR_APPROVAL');
    const { status, body } = await judge('approve', asked, 'second');
    expect([status, body]).toMatchObject([200, { state: 'READY', approvedBy: keys['second']?.actor }]);
    expect(await review(asked.id)).toBe('RUNNING');
    expect((await judge('approve', asked, 'third')).status).toBe(409);
  });

  test('is of the plan as it is: the hash of another one is refused', async () => {
    const { id, planHash } = await enlisted();
    const stale = await judge('approve', { id, planHash: '0'.repeat(64) }, 'second');
    expect(stale).toMatchObject({ status: 409, body: { detail: expect.stringContaining('that of another plan') } });
    await change(id, 7);
    expect((await judge('approve', { id, planHash }, 'second')).status).toBe(409);
    expect((await judge('approve', await find(id), 'second')).status).toBe(200);
  });

  test('is not of the one who changed the plan either', async () => {
    const { id } = await enlisted();
    await change(id, 7, 'second');
    const asked = await find(id);
    expect((await judge('approve', asked, 'second')).status).toBe(403);
    expect((await judge('approve', asked)).status).toBe(403);
    expect((await judge('approve', asked, 'third')).status).toBe(200);
  });

  test('is void with a change, before the rollout begins', async () => {
    const asked = await enlisted({ start: 'manual' });
    await judge('approve', asked, 'second');
    expect((await change(asked.id, 7)).body).toMatchObject({
      state: 'WAITING_FOR_APPROVAL',
      approvedBy: null,
      approvedAt: null,
    });
    const started = await api.ask('POST', `/v1/rollouts/${asked.id}/start`);
    expect(started).toMatchObject({ status: 409, body: { detail: expect.stringContaining('once it is approved') } });
  });

  test('is void with a change while it runs: it pauses, and only another approval lets it go on', async () => {
    const asked = await enlisted();
    await judge('approve', asked, 'second');
    await review(asked.id);
    expect((await change(asked.id, 7)).body).toMatchObject({ state: 'PAUSED', reason: 'approval', approvedBy: null });
    expect((await api.ask('POST', `/v1/rollouts/${asked.id}/resume`)).status).toBe(409);
    expect((await judge('deny', await find(asked.id), 'second')).status).toBe(409);
    expect((await judge('approve', await find(asked.id), 'second')).body).toMatchObject({
      state: 'RUNNING',
      reason: null,
    });
  });

  test('does not end a pause that an operator has ordered', async () => {
    const asked = await enlisted();
    await judge('approve', asked, 'second');
    await review(asked.id);
    await api.ask('POST', `/v1/rollouts/${asked.id}/pause`);
    await change(asked.id, 7);
    expect((await judge('approve', await find(asked.id), 'second')).body).toMatchObject({
      state: 'PAUSED',
      reason: 'operator',
    });
  });

  test('that is void cannot be gone around by a stop and a retry', async () => {
    const asked = await enlisted();
    await judge('approve', asked, 'second');
    await review(asked.id);
    await makeCrowd(database.db).end(await makeCrowd(database.db).busy(), 'FAILED');
    await change(asked.id, 7);
    await api.ask('POST', `/v1/rollouts/${asked.id}/stop`);
    expect(await review(asked.id)).toBe('STOPPED');
    const retried = await api.ask('POST', `/v1/rollouts/${asked.id}/retry`);
    expect(retried).toMatchObject({ status: 409, body: { detail: expect.stringContaining('awaits approval') } });
  });

  test('stands when it comes before a worker has enlisted anybody', async () => {
    const asked = await create();
    expect((await judge('approve', asked, 'second')).body.state).toBe('CREATING');
    await ledger.enlist(asked.id);
    expect(await review(asked.id)).toBe('RUNNING');
  });

  test('is asked for only where the plan needs it', async () => {
    expect((await judge('approve', await enlisted({ approval: false }), 'second')).status).toBe(409);
  });
});

describe('a denial', () => {
  test('is another credential’s as well, and ends the rollout for good', async () => {
    const asked = await enlisted();
    expect((await judge('deny', asked)).status).toBe(403);
    const path = `/v1/rollouts/${asked.id}/deny`;
    const denied = await api.ask('POST', path, { planHash: asked.planHash, reason: 'too fast' }, as('third'));
    expect(denied).toMatchObject({ status: 200, body: { state: 'APPROVAL_DENIED', finishedAt: expect.any(String) } });
    expect(await review(asked.id)).toBe('APPROVAL_DENIED');
    expect((await change(asked.id, 7)).status).toBe(409);
    expect((await judge('approve', asked, 'second')).status).toBe(409);
    const [entry] = await database.db.$client.unsafe(
      `select data from audit where subject = 'rollout/${asked.id}' and action = 'rollout.denied'`,
    );
    expect(entry).toEqual({ data: { planHash: asked.planHash, reason: 'too fast' } });
  });
});
