import { afterAll, beforeAll, expect, test } from 'vitest';
import { adoptDevice, lockDeviceNamed } from '../../db/devices.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const actionsOn = async (subject: string) => {
  const { body } = await api.ask('GET', `/v1/audit?filter=${encodeURIComponent(`subject==${subject}`)}`);
  return body.items.map(({ action }) => action).toReversed();
};

test.each([
  '../x',
  'a/b',
  'a+b',
  'a#b',
  'a\u0000b',
  'x'.repeat(300),
  'x'.repeat(64),
  '',
  '-a',
  'a b',
  '$aws',
  'ä',
  '🙂',
  'a\n',
])('a device named %j is not registered', async (name) => {
  expect(await api.ask('POST', '/v1/devices', { name })).toMatchObject({
    status: 422,
    body: { errors: [{ pointer: '/name' }] },
  });
  expect((await api.ask('GET', `/v1/devices/${encodeURIComponent(name) || 'x'}`)).status).toBe(404);
});

test('a name is taken whatever its case, and found whatever its case', async () => {
  expect((await api.ask('POST', '/v1/devices', { name: 'Pump-17' })).status).toBe(201);
  const again = await api.ask('POST', '/v1/devices', { name: 'pUMP-17' });
  expect(again).toMatchObject({ status: 409, body: { type: 'urn:longhaul:problem:name-taken' } });
  expect((await api.ask('GET', '/v1/devices/PUMP-17')).body.name).toBe('Pump-17');
});

const register = (_: unknown, index: number) => api.ask('POST', '/v1/devices', { name: index % 2 ? 'RACE' : 'race' });

test('of twenty registrations of one name at once, one wins', async () => {
  const statuses = (await Promise.all(Array.from({ length: 20 }, register))).map(({ status }) => status);
  expect(statuses.filter((status) => status === 201)).toHaveLength(1);
  expect(statuses.filter((status) => status === 409)).toHaveLength(19);
});

test('attributes are merged, removed by null, and never more than fifty', async () => {
  await api.ask('POST', '/v1/devices', { name: 'merged', attributes: { a: '1', b: '2' } });
  const changed = await api.ask('PATCH', '/v1/devices/merged', { attributes: { a: null, c: '3' } });
  expect(changed.body.attributes).toEqual({ b: '2', c: '3' });
  const many = Object.fromEntries(Array.from({ length: 49 }, (_, index) => [`k${index}`, 'v']));
  expect((await api.ask('PATCH', '/v1/devices/merged', { attributes: many })).status).toBe(422);
  expect((await api.ask('GET', '/v1/devices/merged')).body.attributes).toEqual({ b: '2', c: '3' });
  expect((await api.ask('PATCH', '/v1/devices/merged', { attributes: { d: 'a\u0000' } })).status).toBe(422);
  expect((await api.ask('PATCH', '/v1/devices/merged', { name: 'other' })).status).toBe(422);
  expect((await api.ask('PATCH', '/v1/devices/absent', { attributes: {} })).status).toBe(404);
  expect(await actionsOn('device/merged')).toEqual(['device.registered', 'device.changed']);
});

test('blocking is on the feed and in the audit, once, and is taken back', async () => {
  const { body } = await api.ask('POST', '/v1/devices', { name: 'blocked' });
  api.told.length = 0;
  const first = await api.ask('POST', '/v1/devices/blocked/block', { reason: 'stolen' });
  expect(first).toMatchObject({ status: 200, body: { state: 'BLOCKED' } });
  expect(api.told).toEqual([{ feed: true }]);
  expect((await api.ask('POST', '/v1/devices/blocked/block')).status).toBe(409);
  expect(api.told).toHaveLength(1);
  const feed = await database.db.$client`select kind from feed where subject = ${body.id}`;
  expect([...feed]).toEqual([{ kind: 'device' }]);
  expect((await api.ask('POST', '/v1/devices/blocked/unblock')).body.state).toBe('REGISTERED');
  expect((await api.ask('POST', '/v1/devices/blocked/unblock')).status).toBe(409);
  expect((await api.ask('POST', '/v1/devices/absent/block')).status).toBe(404);
  expect(await actionsOn('device/blocked')).toEqual(['device.registered', 'device.blocked', 'device.unblocked']);
});

test('a device that was registered ahead is adopted with its attributes, and a blocked one is not', async () => {
  await api.ask('POST', '/v1/devices', { name: 'ahead', attributes: { line: 'operator' } });
  const found = await lockDeviceNamed(database.db, 'AHEAD');
  expect(found).toMatchObject({ name: 'ahead', enrolled: false });
  await adoptDevice(database.db, found?.id ?? '', { template: 't', attributes: { line: 'template', model: 'x' } });
  expect((await api.ask('GET', '/v1/devices/ahead')).body.attributes).toEqual({ line: 'operator', model: 'x' });
  await api.ask('POST', '/v1/devices/ahead/block');
  expect(await lockDeviceNamed(database.db, 'ahead')).toMatchObject({ blocked: true, enrolled: true });
});

test('a block of a device is listed with its name, and taken away when the device is gone', async () => {
  await api.ask('POST', '/v1/devices', { name: 'Lost' });
  await api.ask('POST', '/v1/devices/lost/block', { reason: 'stolen' });
  expect((await api.ask('GET', '/v1/blocks?filter=subject==LOST')).body.items).toMatchObject([
    { kind: 'device', subject: 'lost', reason: 'stolen' },
  ]);
  await database.db.$client`delete from devices where name = 'Lost'`;
  expect((await api.ask('GET', '/v1/blocks?filter=subject==lost')).body.items).toHaveLength(1);
  expect((await api.ask('POST', '/v1/devices/lost/unblock')).status).toBe(204);
  expect((await api.ask('GET', '/v1/blocks?filter=subject==lost')).body.items).toEqual([]);
  expect((await api.ask('POST', '/v1/devices/lost/unblock')).status).toBe(404);
});
