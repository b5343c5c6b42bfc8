import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { countVerdicts, makeDevices, makeRelease, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
let api: Awaited<ReturnType<typeof makeApi>>;
let release: string;
beforeAll(async () => {
  rig = await startRollouts();
  api = await makeApi(rig.db);
});
beforeEach(async () => {
  await rig.reset();
  await makeDevices(rig.db, 6, { version: '1.0.0' });
  release = await makeRelease(rig.db, '2.0.0');
});
afterAll(() => rig[Symbol.asyncDispose]());

const gate = { succeededPercent: 0, soakSeconds: 0 };
async function begin(plan: object = {}) {
  const asked = { name: 'to 2.0.0', release, targets: { filter: 'name==device-*' }, gate, ...plan };
  const { id } = (await api.ask('POST', '/v1/rollouts', asked)).body;
  await rig.ledger.enlist(id);
  await rig.ledger.review(id);
  return id;
}
const retry = (id: string, body?: object) => api.ask('POST', `/v1/rollouts/${id}/retry`, body);
const find = async (id: string) => (await api.ask('GET', `/v1/rollouts/${id}`)).body;

/** Two devices fail, one rejects, one times out, one goes back to its old version, one succeeds. */
async function failAll(id: string) {
  const [one = '', two = '', three = '', four = '', five = '', six = ''] = await rig.crowd.busy();
  await rig.crowd.end([one, two], 'FAILED');
  await rig.crowd.end([three], 'REJECTED');
  await rig.crowd.end([four], 'TIMED_OUT');
  await rig.crowd.succeed([five], '1.0.0');
  await rig.crowd.succeed([six], '2.0.0');
  await rig.ledger.review(id);
  rig.ledger.advance(600_000);
  return rig.ledger.review(id);
}

test('a finished rollout runs again for the devices that failed, and for no other', async () => {
  const id = await begin();
  expect(await failAll(id)).toMatchObject({ status: 'FINISHED' });
  const before = await find(id);
  expect(before).toMatchObject({ counts: { FAILED: 2, REJECTED: 1, TIMED_OUT: 1, REVERTED: 1, SUCCEEDED: 1 } });
  const { status, body } = await retry(id);
  expect([status, body]).toMatchObject([202, { state: 'RUNNING', finishedAt: null, reason: null }]);
  expect(body).toMatchObject({ counts: { FAILED: 0, REJECTED: 0, TIMED_OUT: 0, REVERTED: 0, SUCCEEDED: 1 } });
  const starts = await rig.db.$client.unsafe(
    `select kind from outbox where workflow_id = 'run-rollout/${id}' order by id`,
  );
  expect(starts.map((row) => row['kind'])).toEqual(['start', 'start']);
  await rig.ledger.review(id);
  expect(await rig.crowd.busy()).toHaveLength(5);
  await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
  expect(await rig.ledger.review(id)).toMatchObject({ status: 'FINISHED' });
  expect(await countVerdicts(rig.db, id)).toEqual({ SUCCEEDED: 6 });
  expect(await find(id)).toMatchObject({ finishedAt: expect.any(String) });
});

test('only the kinds that are named are tried again', async () => {
  const id = await begin();
  await failAll(id);
  await retry(id, { kinds: ['REJECTED', 'TIMED_OUT'] });
  expect(await countVerdicts(rig.db, id)).toEqual({ SCHEDULED: 2, FAILED: 2, REVERTED: 1, SUCCEEDED: 1 });
  const { items } = (await api.ask('GET', `/v1/rollouts/${id}/decisions`)).body;
  expect(items.at(-1)).toMatchObject({ kind: 'retried', words: 'An operator gives 2 devices another attempt.' });
});

test('the gate that failed is open again, and what passes it then passes', async () => {
  const id = await begin({ waves: [{ count: 2 }, {}], gate: { succeededPercent: 100, soakSeconds: 0 } });
  await rig.crowd.end(await rig.crowd.busy(), 'FAILED');
  expect(await rig.ledger.review(id)).toMatchObject({ status: 'PAUSED', pauseReason: 'gate' });
  expect((await retry(id)).body).toMatchObject({ state: 'PAUSED', waves: [{ state: 'RUNNING', endedAt: null }, {}] });
  await api.ask('POST', `/v1/rollouts/${id}/resume`);
  await rig.ledger.review(id);
  expect(await rig.crowd.busyWaves()).toEqual([1]);
  await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
  await rig.ledger.review(id);
  expect(await rig.crowd.busyWaves()).toEqual([2]);
  expect(await find(id)).toMatchObject({ waves: [{ state: 'PASSED', passedBy: null }, {}] });
});

test('what was forgiven is not forgiven twice', async () => {
  const id = await begin({ limits: [{ kind: 'FAILED', count: 2 }] });
  const [one = '', two = ''] = await rig.crowd.busy();
  await rig.crowd.end([one, two], 'FAILED');
  expect(await rig.ledger.review(id)).toMatchObject({ status: 'PAUSED' });
  await api.ask('POST', `/v1/rollouts/${id}/resume`);
  await retry(id);
  await rig.ledger.review(id);
  await rig.crowd.end([one, two], 'FAILED');
  expect(await rig.ledger.review(id)).toMatchObject({ status: 'PAUSED', pauseReason: 'limit' });
});

test('it is refused where nothing failed, before it began, while it is undone, and when the release is revoked', async () => {
  const id = await begin();
  const refused = async (words: string) => {
    const { status, body } = await retry(id);
    expect([status, body.detail]).toEqual([409, expect.stringContaining(words)]);
  };
  await refused('no device of it ended FAILED, TIMED_OUT, REJECTED');
  await failAll(id);
  await rig.db.$client.unsafe(`update releases set revoked_at = now() where id = '${release}'`);
  await refused('its release is revoked');
  await api.ask('POST', `/v1/rollouts/${id}/undo`);
  await refused('is UNDOING');
  const { id: other } = (await api.ask('POST', '/v1/jobs', { targets: { filter: 'name==*' }, document: {} })).body;
  expect((await retry(other)).status).toBe(409);
});
