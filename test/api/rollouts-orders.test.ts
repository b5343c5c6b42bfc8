import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
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
  await makeRelease(rig.db, '1.0.0');
  release = await makeRelease(rig.db, '2.0.0');
});
afterAll(() => rig[Symbol.asyncDispose]());

const rows = (text: string) => rig.db.$client.unsafe(text);
const gate = { succeededPercent: 100, soakSeconds: 0 };

/** A rollout that nobody has seen but the API. */
async function create(plan: object = {}) {
  const asked = { name: 'to 2.0.0', release, targets: { filter: 'name==device-*' }, gate, ...plan };
  const { status, body } = await api.ask('POST', '/v1/rollouts', asked);
  expect(status).toBe(202);
  return body.id;
}

/** A rollout whose lifecycle has looked at it once. */
async function begin(plan: object = {}) {
  const id = await create(plan);
  await rig.ledger.enlist(id);
  await rig.ledger.review(id);
  return id;
}

const order = (id: string, verb: string, body?: object) => api.ask('POST', `/v1/rollouts/${id}/${verb}`, body);
const stateOf = async (id: string) => (await api.ask('GET', `/v1/rollouts/${id}`)).body.state;
const conflict = (detail: string) => ({ status: 409, body: { type: 'urn:longhaul:problem:conflict', detail } });
const pokes = async (id: string) =>
  (await rows(`select kind from outbox where workflow_id = 'run-rollout/${id}' order by id`)).map((row) => row['kind']);
const decisions = async (id: string) => {
  const { items } = (await api.ask('GET', `/v1/rollouts/${id}/decisions`)).body;
  return items.map(({ kind, actor }) => [kind, actor]);
};
const actor = () => `api-key/${api.key.id}`;

describe('an order', () => {
  test('holds at once, and leaves a decision, an audit entry, an event and a poke', async () => {
    const id = await begin();
    const { status, body } = await order(id, 'pause');
    expect([status, body]).toMatchObject([200, { id, state: 'PAUSED', reason: 'operator' }]);
    expect((await decisions(id)).at(-1)).toEqual(['paused', actor()]);
    expect(await rows(`select actor from audit where subject = 'rollout/${id}' and action = 'rollout.paused'`)).toEqual(
      [{ actor: actor() }],
    );
    expect(await rows(`select from events where subject = 'rollout/${id}' and kind = 'rollout.paused'`)).toHaveLength(
      1,
    );
    expect(await pokes(id)).toEqual(['start', 'signal']);
  });

  test.each(['approve', 'deny', 'start', 'pause', 'resume', 'stop', 'undo', 'retry'])(
    'to %s what is not there is answered 404, and with a field that it does not know 422',
    async (verb) => {
      const body = verb === 'approve' || verb === 'deny' ? { planHash: '0'.repeat(64) } : {};
      expect((await order(crypto.randomUUID(), verb, body)).status).toBe(404);
      expect((await order('../1', verb, body)).status).toBe(404);
      expect((await order(await create(), verb, { ...body, surprise: 1 })).status).toBe(422);
    },
  );

  test.each([
    ['stop', { inProgress: 'explode' }],
    ['retry', { kinds: [] }],
    ['retry', { kinds: ['SUCCEEDED'] }],
    ['approve', {}],
    ['approve', { planHash: 'A'.repeat(64) }],
    ['deny', { planHash: '0'.repeat(64), reason: 'a\nb' }],
  ])('to %s with %j is refused', async (verb, body) => {
    expect((await order(await create(), verb, body)).status).toBe(422);
  });
});

describe('a start', () => {
  test('begins a rollout that waits for it, or for its time, also before a worker has seen it', async () => {
    const [manual, timed] = [await begin({ start: 'manual' }), await begin({ start: '2099-01-01T00:00:00Z' })];
    expect([await stateOf(manual), await stateOf(timed)]).toEqual(['READY', 'SCHEDULED']);
    const unseen = await create({ start: 'manual' });
    for (const id of [manual, timed, unseen]) {
      expect((await order(id, 'start')).status).toBe(202);
      await rig.ledger.enlist(id);
      expect(await rig.ledger.review(id)).toMatchObject({ status: 'RUNNING' });
    }
    expect(await order(manual, 'start')).toMatchObject(
      conflict('The rollout is RUNNING: only one that has not begun is started.'),
    );
  });
});

describe('a pause', () => {
  test('tells nobody more, and a resume goes on with those that are left', async () => {
    const id = await begin({ pace: { inFlightMax: 2 } });
    await order(id, 'pause');
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    await rig.ledger.review(id);
    expect(await rig.crowd.busy()).toEqual([]);
    expect((await order(id, 'pause')).status).toBe(409);
    expect((await order(id, 'resume')).body).toMatchObject({ state: 'RUNNING', reason: null });
    await rig.ledger.review(id);
    expect(await rig.crowd.busy()).toHaveLength(2);
    expect((await order(id, 'resume')).status).toBe(409);
  });

  test('of what has not begun is over when it is resumed, and not before', async () => {
    const id = await begin({ start: '2099-01-01T00:00:00Z' });
    await order(id, 'pause');
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'PAUSED' });
    expect((await order(id, 'resume')).body.state).toBe('READY');
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'SCHEDULED' });
  });
});

describe('a resume', () => {
  test('lets the wave pass that has failed its gate, in the name of the operator', async () => {
    const id = await begin({ waves: [{ count: 2 }, {}] });
    await rig.crowd.end((await rig.crowd.busy()).slice(0, 1), 'FAILED');
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'PAUSED', pauseReason: 'gate' });
    await order(id, 'resume');
    await rig.ledger.review(id);
    expect(await rig.crowd.busyWaves()).toEqual([1, 2]);
    expect((await api.ask('GET', `/v1/rollouts/${id}`)).body).toMatchObject({
      waves: [
        { number: 1, state: 'PASSED', passedBy: actor() },
        { number: 2, passedBy: null },
      ],
    });
  });

  test('passes a manual gate', async () => {
    const id = await begin({ waves: [{ count: 2, gate: { manual: true } }, {}] });
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    expect(await rig.ledger.review(id)).toMatchObject({ pauseReason: 'manual-gate' });
    await order(id, 'resume');
    await rig.ledger.review(id);
    expect(await rig.crowd.busyWaves()).toEqual([2]);
  });

  test('does not pass a gate that was not the reason of the pause', async () => {
    const id = await begin({ waves: [{ count: 2 }, {}] });
    await order(id, 'pause');
    await order(id, 'resume');
    await rig.ledger.review(id);
    expect(await rig.crowd.busyWaves()).toEqual([1]);
  });

  test('forgives what has failed until then, and a limit counts what comes after', async () => {
    const limits = [{ kind: 'FAILED', count: 2 }];
    const id = await begin({ pace: { inFlightMax: 2 }, limits, gate: { ...gate, succeededPercent: 10 } });
    const fail = async (count: number) => {
      await rig.crowd.end((await rig.crowd.busy()).slice(0, count), 'FAILED');
      return (await rig.ledger.review(id)).status;
    };
    expect(await fail(2)).toBe('PAUSED');
    await order(id, 'resume');
    expect(await fail(0)).toBe('RUNNING');
    expect(await fail(1)).toBe('RUNNING');
    expect(await fail(1)).toBe('PAUSED');
  });
});

describe('a stop', () => {
  test('takes back from those that have not begun at once, and lets the others finish', async () => {
    const id = await begin({ pace: { inFlightMax: 4 } });
    const [first = '', second = ''] = await rig.crowd.busy();
    await rig.crowd.start([first, second]);
    expect(await order(id, 'stop')).toMatchObject({ status: 202, body: { state: 'STOPPING' } });
    expect((await rig.crowd.busy()).toSorted()).toEqual([first, second].toSorted());
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'STOPPING' });
    await rig.crowd.succeed([first, second], '2.0.0');
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'STOPPED' });
    expect(await countVerdicts(rig.db, id)).toEqual({ SUCCEEDED: 2, CANCELED: 4 });
    expect(await order(id, 'stop')).toMatchObject(conflict('The rollout is STOPPED: there is nothing to stop.'));
  });

  test('reaches those in progress as well where it is said, also when it has been said already', async () => {
    const id = await begin({ stopping: 'queued' });
    const hash = (await api.ask('GET', `/v1/rollouts/${id}`)).body.planHash;
    await rig.crowd.start(await rig.crowd.busy());
    await order(id, 'stop');
    expect(await rig.crowd.busy()).toHaveLength(6);
    expect((await order(id, 'stop')).status).toBe(409);
    const { body } = await order(id, 'stop', { inProgress: 'cancel' });
    expect(body).toMatchObject({ plan: { stopping: 'all' }, revision: 2 });
    expect(body.planHash).not.toBe(hash);
    expect(await rig.crowd.busy()).toEqual([]);
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'STOPPED' });
  });

  test('ends what no worker has seen', async () => {
    const id = await create();
    await order(id, 'stop');
    await rig.ledger.enlist(id);
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'STOPPED' });
    expect(await countVerdicts(rig.db, id)).toEqual({});
  });
});

describe('an undo', () => {
  test('of a finished rollout starts its lifecycle again, and sends its devices back', async () => {
    const id = await begin();
    await rig.crowd.succeed(await rig.crowd.busy(), '2.0.0');
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'FINISHED' });
    expect(await order(id, 'undo')).toMatchObject({ status: 202, body: { state: 'UNDOING', finishedAt: null } });
    expect(await pokes(id)).toEqual(['start', 'start']);
    await rig.ledger.review(id);
    await rig.crowd.succeed(await rig.crowd.busy(), '1.0.0');
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'UNDONE' });
    expect((await api.ask('GET', `/v1/rollouts/${id}`)).body).toMatchObject({
      state: 'UNDONE',
      counts: { SUCCEEDED: 6 },
      waves: [{ undoTargets: 6, undoCounts: { UNDONE: 6 } }],
    });
    expect((await order(id, 'undo')).status).toBe(409);
    expect((await order(id, 'stop')).status).toBe(409);
  });

  test('of one that runs takes back from those that have not begun, and cannot be stopped', async () => {
    const id = await begin();
    await order(id, 'undo');
    expect(await rig.crowd.busy()).toEqual([]);
    expect(await order(id, 'stop')).toMatchObject(
      conflict('The rollout is UNDOING: its devices are on their way back.'),
    );
    expect(await rig.ledger.review(id)).toMatchObject({ status: 'UNDONE' });
  });

  test('is refused where nobody was told, and where there is no release', async () => {
    const [waiting, job] = [
      await begin({ start: 'manual' }),
      await begin({ release: undefined, job: { document: { do: 'it' } } }),
    ];
    expect(await order(waiting, 'undo')).toMatchObject(
      conflict('The rollout is READY: nobody was told yet, so nobody has to go back.'),
    );
    expect((await order(job, 'undo')).body.detail).toContain('its job is no release');
  });
});
