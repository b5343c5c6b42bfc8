import { randomUUIDv7 } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { recordSoftware } from '../../db/software.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
const names = ['a-1', 'a-2', 'B-1', 'b-2', 'c-1'];

beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  for (const name of names) {
    await api.ask('POST', '/v1/devices', { name, attributes: { line: name.startsWith('a') ? 'north' : 'south' } });
  }
});
afterAll(() => database[Symbol.asyncDispose]());

let made = 0;
async function makeGroup(body: object = {}) {
  const name = `group-${(made += 1)}`;
  const { status } = await api.ask('POST', '/v1/groups', { name, ...body });
  expect(status).toBe(201);
  return name;
}
const change = (name: string, changes: object) => api.ask('PATCH', `/v1/groups/${name}/members`, changes);
const membersOf = async (name: string, query = '') =>
  (await api.ask('GET', `/v1/groups/${name}/members${query}`)).body.items.map((item) => item.name);
const devicesWhere = async (filter: string) =>
  (await api.ask('GET', `/v1/devices?filter=${encodeURIComponent(filter)}`)).body.items.map(({ name }) => name);
const actionsOn = async (subject: string) => {
  const { body } = await api.ask('GET', `/v1/audit?filter=${encodeURIComponent(`subject==${subject}`)}`);
  return body.items.map(({ action, data }) => [action, data]).toReversed();
};

describe('a static group', () => {
  test('has the members that were added and not removed, whatever the case of their names', async () => {
    const name = await makeGroup({ description: 'first to get it' });
    expect((await change(name, { add: ['a-1', 'b-1', 'C-1'] })).body).toEqual({ added: 3, removed: 0 });
    expect((await change(name.toUpperCase(), { add: ['A-1', 'b-2'], remove: ['c-1', 'a-2'] })).body).toEqual({
      added: 1,
      removed: 1,
    });
    expect(await membersOf(name)).toEqual(['a-1', 'B-1', 'b-2']);
    expect(await devicesWhere(`group==${name}`)).toEqual(['a-1', 'B-1', 'b-2']);
    expect(await membersOf(name, '?filter=attributes.line==south')).toEqual(['B-1', 'b-2']);
    const { body } = await api.ask('GET', `/v1/groups/${name}`);
    expect(body).toMatchObject({ name, description: 'first to get it', filter: null, members: 3 });
    expect((await api.ask('GET', '/v1/devices/b-1')).body).toMatchObject({ groups: [name] });
    expect(await actionsOn(`group/${name}`)).toEqual([
      ['group.created', {}],
      ['group.members-changed', { added: 3, removed: 0 }],
      ['group.members-changed', { added: 1, removed: 1 }],
    ]);
  });

  test('is walked by its links, each member once', async () => {
    const name = await makeGroup();
    await change(name, { add: names });
    const seen: string[] = [];
    for (let next: string | undefined = `/v1/groups/${name}/members?limit=2`; next;) {
      const { headers, body } = await api.ask('GET', next);
      seen.push(...body.items.map((item) => item.name));
      next = /<(.*)>; rel="next"/.exec(headers.get('link') ?? '')?.[1];
    }
    expect(seen).toEqual(names);
  });

  test('takes all of a change or nothing, and says which devices it does not know', async () => {
    const name = await makeGroup();
    const answer = await change(name, { add: ['a-1', 'nobody', 'a-2'], remove: ['none'] });
    expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer: '/add/1' }, { pointer: '/remove/0' }] } });
    expect(await membersOf(name)).toEqual([]);
    expect((await change(name, {})).body).toEqual({ added: 0, removed: 0 });
    expect(await actionsOn(`group/${name}`)).toHaveLength(1);
  });

  test.each<[string, object, string]>([
    ['a thousand and one', { add: Array.from({ length: 1_001 }, (_, index) => `d-${index}`) }, '/add'],
    ['one twice', { add: ['a-1', 'A-1'] }, '/add/1'],
    ['one in and out', { add: ['a-1'], remove: ['a-1'] }, '/remove/0'],
    ['one of a bad name', { add: ['../a'] }, '/add/0'],
    ['one of no name', { remove: [''] }, '/remove/0'],
    ['a number', { add: [1] }, '/add/0'],
    ['a text', { add: 'a-1' }, '/add'],
    ['a field that nobody knows', { set: [] }, '/set'],
  ])('does not take %s', async (_, changes, pointer) => {
    const name = await makeGroup();
    expect(await change(name, changes)).toMatchObject({ status: 422, body: { errors: [{ pointer }] } });
  });

  test('takes a thousand at once, and the same thousand from ten at once', async () => {
    const many = Array.from({ length: 1_000 }, (_, index) => `many-${String(index).padStart(4, '0')}`);
    await database.db.$client`insert into devices (id, name, state)
      select gen_random_uuid(), name, 'ACTIVE' from unnest(${many}::text[]) name`;
    const name = await makeGroup();
    const orders = Array.from({ length: 10 }, (_, index) => (index % 2 ? many : many.toReversed()));
    const answers = await Promise.all(orders.map((add) => change(name, { add })));
    expect(answers.map(({ status }) => status)).toEqual(orders.map(() => 200));
    expect(answers.map(({ text }) => JSON.parse(text).added).toSorted((a, b) => a - b)).toEqual([
      ...Array.from({ length: 9 }, () => 0),
      1_000,
    ]);
    expect((await api.ask('GET', `/v1/groups/${name}`)).body).toMatchObject({ members: 1_000 });
    await database.db.$client`delete from devices where name like 'many-%'`;
  });

  test('is after two changes at once as after one and then the other', async () => {
    const name = await makeGroup();
    const [ones, others] = [
      ['a-1', 'a-2'],
      ['B-1', 'b-2', 'c-1'],
    ];
    await change(name, { add: others });
    for (let turn = 0; turn < 20; turn++) {
      const changes = [
        { add: ones, remove: others },
        { add: others, remove: ones },
      ];
      const answers = await Promise.all(changes.map((asked) => change(name, asked)));
      expect(answers.map(({ status }) => status)).toEqual([200, 200]);
      expect([ones, others]).toContainEqual(await membersOf(name));
    }
  });

  test('has no filter to change, and is deleted with its members', async () => {
    const name = await makeGroup();
    await change(name, { add: ['a-1'] });
    expect((await api.ask('PATCH', `/v1/groups/${name}`, { filter: 'name==*' })).status).toBe(409);
    const described = await api.ask('PATCH', `/v1/groups/${name}`, { description: 'other' });
    expect(described.body).toMatchObject({ description: 'other', filter: null });
    expect((await api.ask('DELETE', `/v1/groups/${name}`)).status).toBe(204);
    expect((await api.ask('DELETE', `/v1/groups/${name}`)).status).toBe(404);
    for (const path of ['', '/members']) expect((await api.ask('GET', `/v1/groups/${name}${path}`)).status).toBe(404);
    expect((await change(name, { add: ['a-1'] })).status).toBe(404);
    const rows = await database.db.$client`select from group_members where group_id not in (select id from groups)`;
    expect(rows).toHaveLength(0);
  });
});

describe('a dynamic group', () => {
  test('has those members that match its filter now', async () => {
    const name = await makeGroup({ filter: 'attributes.line==north' });
    expect(await membersOf(name)).toEqual(['a-1', 'a-2']);
    await api.ask('PATCH', '/v1/devices/c-1', { attributes: { line: 'north' } });
    expect(await membersOf(name)).toEqual(['a-1', 'a-2', 'c-1']);
    await api.ask('PATCH', '/v1/devices/c-1', { attributes: { line: 'south' } });
    const changed = await api.ask('PATCH', `/v1/groups/${name}`, { filter: 'name==b*' });
    expect(changed.body).toMatchObject({ filter: 'name==b*' });
    expect(await devicesWhere(`group==${name};name!=b-2`)).toEqual(['B-1']);
    expect((await api.ask('GET', `/v1/groups/${name}`)).body).toMatchObject({ members: 2 });
    expect((await change(name, { add: ['a-1'] })).status).toBe(409);
    expect(await actionsOn(`group/${name}`)).toEqual([
      ['group.created', { filter: 'attributes.line==north' }],
      ['group.changed', { filter: 'name==b*' }],
    ]);
  });

  test('names static groups, which are then not deleted', async () => {
    const listed = await makeGroup();
    const name = await makeGroup({ filter: `group!=${listed};name==b*` });
    await change(listed, { add: ['b-1'] });
    expect(await membersOf(name)).toEqual(['b-2']);
    expect((await api.ask('DELETE', `/v1/groups/${listed}`)).status).toBe(409);
    const nested = await api.ask('POST', '/v1/groups', { name: 'nested', filter: `group==${name}` });
    expect(nested).toMatchObject({ status: 422, body: { errors: [{ pointer: '/filter' }] } });
    expect((await api.ask('DELETE', `/v1/groups/${name}`)).status).toBe(204);
    expect((await api.ask('DELETE', `/v1/groups/${listed}`)).status).toBe(204);
  });

  test.each([
    ['that is not RSQL', 'name'],
    ['of no characters', ''],
    ['over a field that nobody knows', 'password==x'],
    ['over a group that is not there', 'group==absent'],
    ['with SQL for a field', '"name) or (1=1"==x'],
    ['with a NUL', 'name==a\u0000'],
    ['with a bomb of parentheses', '('.repeat(1_999)],
    ['with many wildcards', 'version.app==*1*1*1*1*1*'],
    ['with a product of no name', 'version.==1'],
    ['that asks a version for its order', 'version.app=gt=1.2'],
    ['that asks for a third truth value', 'connected==maybe'],
    ['over a state that there is not', 'certificate.state==GONE'],
    ['of more comparisons than there may be', Array.from({ length: 33 }, () => 'name==a').join(',')],
    ['of more characters than there may be', `name==${'a'.repeat(2_000)}`],
    ['that is a list', ['name==a']],
  ])('is not made with a filter %s', async (_, filter) => {
    const started = performance.now();
    const answer = await api.ask('POST', '/v1/groups', { name: 'bad', filter });
    expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer: '/filter' }] } });
    expect(performance.now() - started).toBeLessThan(1_000);
    expect((await api.ask('GET', '/v1/groups/bad')).status).toBe(404);
  });

  test.each(["x' or '1'='1", "1') or 1=1--", '%', '_', '\\'])('takes the value %s for a value', async (value) => {
    const quoted = `"${value.replaceAll('\\', '\\\\')}"`;
    for (const field of ['version.app', 'attributes.line', 'name']) {
      const name = await makeGroup({ filter: `${field}==${quoted}` });
      expect(await membersOf(name)).toEqual([]);
    }
  });
});

describe('the name of a group', () => {
  test.each(['', '../x', 'a/b', '-a', 'a b', 'a,b', 'a;b', 'a*', 'ä', 'a\u0000', 'x'.repeat(64), 7])(
    'is not %j',
    async (name) => {
      const answer = await api.ask('POST', '/v1/groups', { name });
      expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer: '/name' }] } });
    },
  );

  test('is taken once, whatever its case, and groups are listed by it', async () => {
    await api.ask('POST', '/v1/groups', { name: 'Zeta' });
    await api.ask('POST', '/v1/groups', { name: 'zeta-dynamic', filter: 'name==a*' });
    const again = await api.ask('POST', '/v1/groups', { name: 'zETA' });
    expect(again).toMatchObject({ status: 409, body: { type: 'urn:longhaul:problem:name-taken' } });
    const listed = async (filter: string) =>
      (await api.ask('GET', `/v1/groups?filter=${encodeURIComponent(filter)}`)).body.items.map(({ name }) => name);
    expect(await listed('name==zeta*')).toEqual(['Zeta', 'zeta-dynamic']);
    expect(await listed('name==ZETA*;dynamic==true')).toEqual(['zeta-dynamic']);
  });

  test('in the filter of a list is one that there is', async () => {
    const answer = await api.ask('GET', '/v1/devices?filter=group==absent');
    expect(answer).toMatchObject({ status: 400, body: { errors: [{ parameter: 'filter' }] } });
  });
});

test('what a device says that it runs is shown with it, and devices are found by it', async () => {
  const { body } = await api.ask('GET', '/v1/devices/a-2');
  expect(body).toMatchObject({ software: {} });
  const changes = new Map([
    ['app', '1.2.3'],
    ['boot-loader', '7'],
  ]);
  const report = { deviceId: body.id, changes, whole: false, eventId: randomUUIDv7() };
  await recordSoftware(database.db, [report], { workflowIdPrefix: 'run-rollout/', signal: 'rolloutProgressed' });
  const at = expect.stringMatching(/^\d{4}-.*\.\d{3}Z$/);
  expect((await api.ask('GET', '/v1/devices/a-2')).body).toMatchObject({
    software: { app: { version: '1.2.3', reportedAt: at }, 'boot-loader': { version: '7', reportedAt: at } },
  });
  expect(await devicesWhere('version.app==1.2.*')).toEqual(['a-2']);
  expect(await devicesWhere('version.boot-loader=in=(6,7)')).toEqual(['a-2']);
  expect(await devicesWhere('version.app==1.20.*')).toEqual([]);
});
