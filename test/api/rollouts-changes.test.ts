import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeDevices, makeRelease, startRollouts } from '../support/rollouts.ts';

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

const rows = (text: string) => rig.db.$client.unsafe(text);
const gate = { succeededPercent: 100, soakSeconds: 0 };
async function create(plan: object = {}) {
  const asked = { name: 'to 2.0.0', release, targets: { filter: 'name==device-*' }, gate, ...plan };
  return (await api.ask('POST', '/v1/rollouts', asked)).body.id;
}
async function begin(plan: object = {}) {
  const id = await create(plan);
  await rig.ledger.enlist(id);
  await rig.ledger.review(id);
  return id;
}
const change = (id: string, changes: object) => api.ask('PATCH', `/v1/rollouts/${id}`, changes);

describe('a change', () => {
  test('is another revision with another hash, says what it changed, and leaves the rest', async () => {
    const pace = { inFlightMax: 2, perMinute: 5, growth: { factor: 2, afterSuccesses: 3, perMinuteMax: 9 } };
    const id = await begin({ pace });
    const { planHash, ...before } = (await api.ask('GET', `/v1/rollouts/${id}`)).body;
    const { status, body } = await change(id, {
      pace: { inFlightMax: 4, growth: null },
      timers: { endWithinSeconds: 60 },
    });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      revision: 2,
      plan: { pace: { inFlightMax: 4, perMinute: 5 }, timers: { endWithinSeconds: 60, verifyWithinSeconds: 600 } },
    });
    expect(body).not.toHaveProperty('plan.pace.growth');
    expect(body.planHash).not.toBe(planHash);
    expect(Reflect.get(before, 'plan')).toMatchObject({ pace });
    expect(await rows(`select end_within_seconds from jobs where id = '${id}'`)).toEqual([{ end_within_seconds: 60 }]);
    const last = (await api.ask('GET', `/v1/rollouts/${id}/decisions`)).body.items.at(-1);
    expect(last).toMatchObject({ kind: 'changed', words: 'Revision 2 changes pace, timers.' });
    expect(last).toHaveProperty('sample.because.pace.before.inFlightMax', 2);
    await rig.ledger.review(id);
    expect(await rig.crowd.busy()).toHaveLength(4);
  });

  test('that changes nothing is none', async () => {
    const id = await begin({ windows: { zone: 'UTC', open: [{ from: '00:00', to: '00:00' }] } });
    const { status, body } = await change(id, { pace: { inFlightMax: 100 }, windows: { zone: 'UTC' }, limits: [] });
    expect([status, body]).toMatchObject([200, { revision: 1 }]);
    expect(await rows(`select kind from outbox where workflow_id = 'run-rollout/${id}'`)).toEqual([{ kind: 'start' }]);
  });

  test('gives windows and takes them away, and moves the deadline with the time for all', async () => {
    const id = await begin();
    const shut = { zone: 'UTC', open: [{ days: [1], from: '00:00', to: '00:01' }] };
    expect((await change(id, { windows: shut })).body).toMatchObject({ plan: { windows: shut } });
    expect((await change(id, { windows: null })).body).not.toHaveProperty('plan.windows');
    const deadlines = async () =>
      (await rows(`select deadline_at from rollouts where id = '${id}'`))[0]?.['deadline_at'];
    const before = Date.parse(await deadlines());
    await change(id, { timers: { rolloutSeconds: 2_592_000 - 60 } });
    expect(Date.parse(await deadlines())).toBe(before - 60_000);
  });

  test.each([
    ['', {}],
    ['/waves', { waves: [{}] }],
    ['/targets', { targets: { filter: 'name==*' } }],
    ['/priority', { priority: 5 }],
    ['/pace/inFlightMax', { pace: { inFlightMax: 0 } }],
    ['/pace/inFlightMax', { pace: { inFlightMax: null } }],
    ['/pace/growth', { pace: { growth: { factor: 2, afterSuccesses: 3, perMinuteMax: 9 } } }],
    ['/pace/surprise', { pace: { surprise: 1 } }],
    ['/windows/zone', { windows: { open: [{ from: '00:00', to: '01:00' }] } }],
    ['/windows/zone', { windows: { zone: 'nowhere' } }],
    ['/limits/0', { limits: [{}] }],
    ['/gate/succeededPercent', { gate: { succeededPercent: 101 } }],
    ['/timers', { timers: null }],
  ])('with a bad %s is refused', async (pointer, changes) => {
    const { status, body } = await change(await create(), changes);
    expect(status).toBe(422);
    expect(body.errors.map((error) => error.pointer)).toContain(pointer);
  });

  test('of what has ended, or is about to, is refused', async () => {
    const [stopped, finished] = [await begin(), await create({ targets: { filter: 'name==absent' } })];
    await rig.crowd.start(await rig.crowd.busy());
    await api.ask('POST', `/v1/rollouts/${stopped}/stop`);
    await rig.ledger.enlist(finished);
    await rig.ledger.review(finished);
    for (const [id, state] of Object.entries({ [stopped]: 'STOPPING', [finished]: 'FINISHED' })) {
      const detail = `The rollout is ${state}: it comes to its end, or has.`;
      expect(await change(id, { pace: { inFlightMax: 1 } })).toMatchObject({ status: 409, body: { detail } });
    }
  });
});
