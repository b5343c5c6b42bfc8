import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { makeDevices, makeRelease, runs } from '../support/rollouts.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
let release: string;
let devices: string[];
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  devices = await makeDevices(database.db, 4, { prefix: 'pump', version: '1.0.0' });
  await makeRelease(database.db, '1.0.0', { securityCounter: 3 });
  release = await makeRelease(database.db, '2.0.0', { securityCounter: 3 });
  await api.ask('POST', '/v1/groups', { name: 'north' });
});
afterAll(() => database[Symbol.asyncDispose]());

const rows = (text: string) => database.db.$client.unsafe(text);
const plain = () => ({ name: 'to 2.0.0', release, targets: { filter: 'name==pump-*' } });
const create = (part: object = {}) => api.ask('POST', '/v1/rollouts', { ...plain(), ...part });
const pointers = async (part: object) => {
  const { status, body } = await create(part);
  return [status, (body.errors ?? []).map(({ pointer }) => pointer)];
};

describe('a rollout', () => {
  test('is recorded whole before it is answered: waves, job, lifecycle, audit, event', async () => {
    const waves = [{ count: 1 }, { percent: 25, gate: { manual: true } }, {}];
    const { status, body } = await create({ waves, priority: 7 });
    const { id } = body;
    expect(status).toBe(202);
    expect(body).toMatchObject({
      state: 'CREATING',
      release: { id: release, product: 'pump', version: '2.0.0' },
      jobId: id,
      wave: 0,
      targets: 0,
      counts: {},
      inFlight: 0,
      revision: 1,
      priority: 7,
      createdBy: `api-key/${api.key.id}`,
      startedAt: null,
      waves: [
        { number: 1, state: 'WAITING' },
        { number: 2, state: 'WAITING' },
        { number: 3, state: 'WAITING' },
      ],
      lifecycle: {
        workflowId: `run-rollout/${id}`,
        url: `http://ui.example/namespaces/default/workflows/run-rollout%2F${id}`,
      },
    });
    const [job] = await rows(`select * from jobs where id = '${id}'`);
    const sha256 = Buffer.alloc(32, '2.0.0').toString('hex');
    expect(job).toMatchObject({ rollout_id: id, start_within_seconds: 259_200, end_within_seconds: 3_600 });
    expect(JSON.parse(job?.['document'])).toEqual({
      operation: 'update',
      product: 'pump',
      version: '2.0.0',
      manifest: 'header.payload.signature',
      artifact: { name: 'image.bin', sha256, size: 10, url: `\${longhaul:url:${sha256}}` },
    });
    expect(await rows(`select kind, name, argument from outbox where workflow_id = 'run-rollout/${id}'`)).toEqual([
      { kind: 'start', name: 'runRollout', argument: { rolloutId: id } },
    ]);
    const [entry] = await rows(`select action, data from audit where subject = 'rollout/${id}'`);
    expect(entry).toEqual({ action: 'rollout.created', data: { release } });
    expect(await rows(`select kind from events where subject = 'rollout/${id}'`)).toEqual([
      { kind: 'rollout.created' },
    ]);
  });

  test('of which little is said has a cap, a gate, timers and an end', async () => {
    const { body } = await create();
    expect(body).toMatchObject({
      plan: {
        targets: { filter: 'name==pump-*', continuous: false },
        waves: [{}],
        gate: { succeededPercent: 95, soakSeconds: 300, manual: false, otherwise: 'pause' },
        limits: [],
        pace: { inFlightMax: 100 },
        timers: {
          startWithinSeconds: 259_200,
          endWithinSeconds: 3_600,
          verifyWithinSeconds: 600,
          rolloutSeconds: 2_592_000,
        },
        retries: { max: 0, backoffSeconds: 60, kinds: ['FAILED', 'TIMED_OUT'] },
        priority: 0,
        stopping: 'queued',
        approval: false,
        start: 'now',
      },
      deadlineAt: expect.any(String),
    });
    expect((await api.ask('GET', `/v1/rollouts/${body.id}`)).body).toEqual(body);
  });

  test('keeps every rule that it was given', async () => {
    const rules = {
      targets: { devices: ['PUMP-00000'], groups: ['North'], filter: 'version.pump==1.*', continuous: true },
      waves: [{ filter: 'name==*-00001' }, { percent: 33.33 }, { count: 7, gate: { soakSeconds: 5 } }, {}],
      gate: { succeededPercent: 99.99, soakSeconds: 60, manual: true, otherwise: 'undo' },
      limits: [
        { kind: 'FAILED', count: 3, judgedMin: 10, then: 'undo' },
        { kind: 'ANY', percent: 12.5, judgedMin: 4, then: 'stop' },
      ],
      pace: { inFlightMax: 50, perMinute: 10, growth: { factor: 1.5, afterSuccesses: 20, perMinuteMax: 80 } },
      timers: { startWithinSeconds: 1, endWithinSeconds: 2, verifyWithinSeconds: 3, rolloutSeconds: 4 },
      retries: { max: 9, backoffSeconds: 30, kinds: ['REJECTED'] },
      windows: {
        zone: { attribute: 'zone', default: 'Europe/Berlin' },
        open: [{ days: [6, 7], from: '22:00', to: '04:30' }],
      },
      priority: -100,
      stopping: 'all',
      approval: true,
      start: '2099-01-01T00:00:00+02:00',
    };
    const { status, body } = await create(rules);
    expect(status).toBe(202);
    expect(body).toMatchObject({
      plan: rules,
      startsAt: '2098-12-31T22:00:00.000Z',
      deadlineAt: '2098-12-31T22:00:04.000Z',
    });
  });

  test('says what was asked by a hash, and another request has another', async () => {
    const [first, same] = [await create({ waves: [{ count: 2 }, {}] }), await create({ waves: [{ count: 2 }, {}] })];
    const others = [{ waves: [{ count: 3 }, {}] }, { name: 'other' }, { release: undefined, job: { document: {} } }];
    const hashes = [first, ...(await Promise.all(others.map((part) => create(part))))].map(({ body }) => body.planHash);
    expect(same.body.planHash).toBe(first.body.planHash);
    expect(new Set(hashes).size).toBe(hashes.length);
    expect(hashes[0]).toMatch(/^[0-9a-f]{64}$/);
  });

  test('is found by its state and its release, the youngest first', async () => {
    const other = await makeRelease(database.db, '3.0.0', { securityCounter: 3 });
    const { body } = await create({ release: other });
    const filter = `release==${other};state==CREATING`;
    const { items } = (await api.ask('GET', `/v1/rollouts?filter=${encodeURIComponent(filter)}`)).body;
    expect(items).toMatchObject([{ id: body.id, counts: {}, lifecycle: { workflowId: `run-rollout/${body.id}` } }]);
    const all = (await api.ask('GET', '/v1/rollouts?limit=500')).body.items.map(({ id }) => id);
    expect(all).toEqual(all.toSorted().toReversed());
    expect((await api.ask('GET', `/v1/rollouts/${crypto.randomUUID()}`)).status).toBe(404);
  });

  test('is made once under an idempotency key', async () => {
    const ask = () => api.ask('POST', '/v1/rollouts', plain(), { 'idempotency-key': 'rollout-1' });
    const [first, again] = [await ask(), await ask()];
    expect(again).toMatchObject({ status: 202, body: { id: first.body.id } });
    expect(await rows(`select from rollouts where id = '${first.body.id}'`)).toHaveLength(1);
  });
});

describe('a rollout that the fleet has something against', () => {
  const refused = async (part: object, ...errors: object[]) => {
    const before = await rows('select id from rollouts');
    expect(await create(part)).toMatchObject({ status: 422, body: { type: 'urn:longhaul:problem:invalid', errors } });
    expect(await rows('select id from rollouts')).toHaveLength(before.length);
  };

  test('for devices and groups that are not known names each of them', () =>
    refused(
      { targets: { devices: ['pump-00001', 'absent', 'gone'], groups: ['NORTH', 'south'] } },
      { pointer: '/targets/devices/1', detail: 'absent is not known' },
      { pointer: '/targets/devices/2', detail: 'gone is not known' },
      { pointer: '/targets/groups/1', detail: 'south is not known' },
    ));

  test.each([
    ['a field that nobody knows', 'secret==1'],
    ['a group that is none', 'group==south'],
    ['no comparison', 'name'],
    ['SQL in it', "name=='x' or 1=1"],
  ])('with %s in a filter is pointed at the filter', async (_, filter) => {
    await refused({ targets: { filter } }, { pointer: '/targets/filter', detail: expect.any(String) });
    await refused(
      { waves: [{ count: 1 }, { filter }, {}] },
      { pointer: '/waves/1/filter', detail: expect.any(String) },
    );
  });

  test('of a release that is not there, revoked or expired is not made', async () => {
    const past = new Date(Date.now() - 1_000);
    const revoked = await makeRelease(database.db, '2.1.0', { securityCounter: 3, revokedAt: past });
    const expired = await makeRelease(database.db, '2.2.0', { securityCounter: 3, expiresAt: past });
    const at = (detail: unknown) => ({ pointer: '/release', detail });
    await refused({ release: crypto.randomUUID() }, at('there is no such release'));
    await refused({ release: revoked }, at('the release is revoked'));
    await refused({ release: expired }, at(`its manifest expired at ${past.toISOString()}`));
  });

  test('below the counter that devices have already is not made, unless it is signed as a way back', async () => {
    const lower = { securityCounter: 2 };
    const { db } = database;
    await refused(
      { release: await makeRelease(db, '0.9.0', lower) },
      { pointer: '/release', detail: expect.stringContaining('its security counter 2 is below 3') },
    );
    expect((await create({ release: await makeRelease(db, '0.8.0', { ...lower, downgrade: true }) })).status).toBe(202);
    expect((await create({ release: await makeRelease(db, '0.7.0', { ...lower, product: 'valve' }) })).status).toBe(
      202,
    );
    await makeRelease(db, '4.0.0', { securityCounter: 4 });
    expect((await create()).status).toBe(202); // nobody runs it
    const [first = ''] = devices;
    await runs(db, [first], '4.0.0');
    await refused({}, { pointer: '/release', detail: expect.stringContaining('is below 4') });
    await runs(db, [first], '1.0.0');
  });
});

describe('a plan that breaks a rule is refused, and the fault is pointed at', () => {
  const document = (size: number) => ({ release: undefined, job: { document: { text: 'x'.repeat(size) } } });
  const open = [{ from: '22:00', to: '04:00' }];

  test.each([
    ['/name', { name: '' }],
    ['/name', { name: 'a\u0000b' }],
    ['/release', { release: '../1' }],
    ['/release', { release: undefined }],
    ['/release', { job: { document: {} } }],
    ['/job/document', { release: undefined, job: {} }],
    ['/job/document', { release: undefined, job: { document: '[1]' } }],
    ['/job/document', { release: undefined, job: { document: '{"a":1,"a":2}' } }],
    ['/job/document', { release: undefined, job: { document: '{"a":' } }],
    ['/job/document', { release: undefined, job: { document: [] } }],
    ['/job/document', { release: undefined, job: { document: { url: '${longhaul:url:../../etc/passwd}' } } }],
    ['/job/document', { release: undefined, job: { document: { url: `\${longhaul:url:${'0'.repeat(64)}` } } }],
    ['/job/document', { release: undefined, job: { document: { url: `\${longhaul:url:${'0'.repeat(64)}}` } } }],
    ['/targets', { targets: undefined }],
    ['/targets', { targets: {} }],
    ['/targets/devices', { targets: { devices: [] } }],
    ['/targets/devices/1', { targets: { devices: ['pump-00000', 'PUMP-00000'] } }],
    ['/targets/devices/0', { targets: { devices: ['../../etc/passwd'] } }],
    ['/targets/groups/1', { targets: { groups: ['north', 'NORTH'] } }],
    ['/targets/continuous', { targets: { filter: 'name==*', continuous: 'yes' } }],
    ['/waves', { waves: [] }],
    ['/waves/0', { waves: [{}, {}] }],
    ['/waves/0', { waves: [{ count: 1, percent: 5 }, {}] }],
    ['/waves/0/percent', { waves: [{ percent: 0 }, {}] }],
    ['/waves', { waves: [{ percent: 60 }, { percent: 60 }, {}] }],
    ['/waves/1/percent', { waves: [{ percent: 10 }, { percent: 20 }] }],
    ['/waves/0/count', { waves: [{ count: 5 }] }],
    ['/waves', { waves: Array.from({ length: 51 }, () => ({ count: 1 })) }],
    ['/waves/0/gate/soakSeconds', { waves: [{ gate: { soakSeconds: -1 } }] }],
    ['/gate/succeededPercent', { gate: { succeededPercent: 100.5 } }],
    ['/gate/succeededPercent', { gate: { succeededPercent: 99.999 } }],
    ['/gate/otherwise', { gate: { otherwise: 'hope' } }],
    ['/limits/0', { limits: [{ then: 'stop' }] }],
    ['/limits/0/kind', { limits: [{ kind: 'SUCCEEDED', count: 1 }] }],
    ['/limits/0/percent', { limits: [{ percent: 101 }] }],
    ['/pace/inFlightMax', { pace: { inFlightMax: 0 } }],
    ['/pace/inFlightMax', { pace: { inFlightMax: 100_001 } }],
    ['/pace/perMinute', { pace: { perMinute: 0.5 } }],
    ['/pace/growth', { pace: { growth: { factor: 2, afterSuccesses: 1, perMinuteMax: 9 } } }],
    ['/pace/growth/factor', { pace: { perMinute: 1, growth: { factor: 1, afterSuccesses: 1, perMinuteMax: 9 } } }],
    ['/timers/endWithinSeconds', { timers: { endWithinSeconds: 7 * 86_400 + 1 } }],
    ['/timers/rolloutSeconds', { timers: { rolloutSeconds: 0 } }],
    ['/retries/max', { retries: { max: 10 } }],
    ['/retries/kinds', { retries: { kinds: ['FAILED', 'FAILED'] } }],
    ['/windows/zone', { windows: { open } }],
    ['/windows/zone', { windows: { zone: 'Europe/Atlantis', open } }],
    ['/windows/zone', { windows: { zone: '+01:00', open } }],
    ['/windows/zone/default', { windows: { zone: { attribute: 'zone', default: 'nowhere' }, open } }],
    ['/windows/open', { windows: { zone: 'UTC', open: [] } }],
    ['/windows/open/0/from', { windows: { zone: 'UTC', open: [{ from: '24:00', to: '01:00' }] } }],
    ['/windows/open/0/days', { windows: { zone: 'UTC', open: [{ days: [1, 1], from: '22:00', to: '01:00' }] } }],
    ['/windows/open/0/days/0', { windows: { zone: 'UTC', open: [{ days: [0], from: '22:00', to: '01:00' }] } }],
    ['/priority', { priority: 101 }],
    ['/priority', { priority: -101 }],
    ['/stopping', { stopping: 'none' }],
    ['/approval', { approval: 'yes' }],
    ['/start', { start: 'later' }],
    ['/start', { start: '2099-01-01' }],
    ['/surprise', { surprise: 1 }],
    ['/targets/surprise', { targets: { filter: 'name==*', surprise: 1 } }],
    ['/waves/0/gate/surprise', { waves: [{ gate: { surprise: 1 } }] }],
  ])('%s', async (pointer, part) => {
    const [status, found] = await pointers(part);
    expect(status).toBe(422);
    expect(found).toContain(pointer);
  });

  test('with a document over its limit is answered 413', async () => {
    expect((await create(document(32 * 1024))).status).toBe(413);
    expect((await create(document(32 * 1024 - 11))).status).toBe(202);
  });
});
