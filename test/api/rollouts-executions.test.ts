import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeRelease, makeDevices, startRollouts } from '../support/rollouts.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
let api: Awaited<ReturnType<typeof makeApi>>;
let id: string;
beforeAll(async () => {
  rig = await startRollouts();
  api = await makeApi(rig.db);
  await makeDevices(rig.db, 9, { version: '1.0.0' });
  const release = await makeRelease(rig.db, '2.0.0');
  const asked = {
    name: 'listed',
    release,
    targets: { filter: 'name==device-*' },
    waves: [{ count: 5 }, {}],
    gate: { succeededPercent: 100, soakSeconds: 0 },
    retries: { max: 1, kinds: ['TIMED_OUT'] },
  };
  ({ id } = (await api.ask('POST', '/v1/rollouts', asked)).body);
  await rig.ledger.enlist(id);
  await rig.ledger.review(id);
  const [good = '', bad = '', slow = '', begun = ''] = await rig.crowd.busy();
  await rig.db.$client.unsafe(
    `update executions set details = '{"reason":"E7","message":"disk"}' where device_id = '${bad}'`,
  );
  await rig.crowd.end([bad], 'FAILED');
  await rig.crowd.end([slow], 'TIMED_OUT');
  await rig.crowd.succeed([good], '2.0.0');
  await rig.crowd.start([begun]);
  await rig.ledger.review(id);
});
afterAll(() => rig[Symbol.asyncDispose]());

const list = async (query: Record<string, string> = {}, path = 'executions') =>
  api.ask('GET', `/v1/rollouts/${id}/${path}?${new URLSearchParams(query).toString()}`);
const filtered = async (filter: string) => (await list({ filter })).body.items;

describe('the executions of a rollout', () => {
  test('show every device with its verdict and its latest execution', async () => {
    const { items } = (await list()).body;
    expect(items).toHaveLength(9);
    expect(await filtered('verdict==FAILED')).toMatchObject([
      {
        wave: 1,
        direction: 'FORWARD',
        state: 'DONE',
        verdict: 'FAILED',
        reason: 'E7: disk',
        previousVersion: '1.0.0',
        execution: { jobId: id, attempt: 1, status: 'FAILED', version: 2, details: { reason: 'E7', message: 'disk' } },
      },
    ]);
    const [waiting] = await filtered('wave==2');
    expect(waiting).toMatchObject({ state: 'SCHEDULED', verdict: null, execution: null, toldAt: null });
  });

  test.each([
    ['verdict==SUCCEEDED', 1],
    ['verdict=in=(SUCCEEDED,FAILED)', 2],
    ['state==RETRYING', 1],
    ['state==IN_FLIGHT', 2],
    ['state==SCHEDULED;wave==2', 4],
    ['wave==1', 5],
    ['wave!=1', 4],
    ['device==DEVICE-00003', 1],
    ['device==device-*', 9],
    ['undoVerdict==UNDONE', 0],
  ])('%s finds what it says', async (filter, count) => {
    expect(await filtered(filter)).toHaveLength(count);
  });

  test.each(['wave==x', 'wave==-1', 'wave==1.5', 'verdict==GOOD', 'state==', 'secret==1', 'wave=gt=1'])(
    'the filter %s is answered 400',
    async (filter) => {
      expect((await list({ filter })).status).toBe(400);
    },
  );

  test('are walked by their links, each once', async () => {
    const seen: unknown[] = [];
    for (let next: string | undefined = `/v1/rollouts/${id}/executions?limit=2`; next;) {
      const { headers, body } = await api.ask('GET', next);
      seen.push(...body.items.map((item) => item['deviceId']));
      next = /<(.*)>; rel="next"/.exec(headers.get('link') ?? '')?.[1];
    }
    expect(seen).toHaveLength(9);
    expect(new Set(seen).size).toBe(9);
  });
});

test('the decisions of a rollout say why, with what they rest on, in their order', async () => {
  const { items } = (await list({}, 'decisions')).body;
  expect(items.map(({ kind }) => kind)).toEqual(['started', 'wave-opened', 'paused']);
  expect(items.at(-1)).toMatchObject({
    words: 'Wave 1: 1 of 5 succeeded where 5 are needed (100 %), which can no longer be reached.',
    actor: 'system/lifecycle',
    sample: { because: { succeeded: 1, needed: 5 }, standing: { wave: 1 } },
  });
  const first = await list({ limit: '1' }, 'decisions');
  expect(first.body.items).toHaveLength(1);
  expect(first.headers.get('link')).toContain('cursor=');
  expect((await list({ filter: 'kind==paused' }, 'decisions')).status).toBe(400);
});

test.each(['executions', 'decisions', 'events'])('the %s of what is not there are answered 404', async (path) => {
  expect((await api.ask('GET', `/v1/rollouts/${crypto.randomUUID()}/${path}`)).status).toBe(404);
});
