import { randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { changeMembers } from '../../db/group-members.ts';
import { FilterFault } from '../../db/filters.ts';
import { changeGroup, deleteGroup, findGroup, insertGroup } from '../../db/groups.ts';
import { devices, presence } from '../../db/schema.ts';
import { deviceSoftware } from '../../db/rollout-schema.ts';
import {
  countTargets,
  groupsNamedBy,
  listUnknownDevices,
  resolveGroups,
  targetCondition,
  type Targets,
} from '../../db/targets.ts';
import { eventually } from '../support/eventually.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet } from '../support/gateway.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await makeDatabase();
  const fleet = await createFleet(database.db);
  const add = async (name: string, { site, app, connected, ...states }: Device) => {
    const { deviceId } = await fleet.makeDevice({ name, ...states });
    await database.db.execute(
      sql`update devices set attributes = ${JSON.stringify({ site })}::jsonb where id = ${deviceId}`,
    );
    if (app) await database.db.insert(deviceSoftware).values({ deviceId, product: 'app', version: app });
    if (connected === undefined) return;
    const seen = { clientId: 'c', version: 1, certificateId: 'c', changedAt: new Date() };
    await database.db.insert(presence).values({ deviceId, connected, ...seen });
  };
  await add('a-1', { site: 'berlin', app: '1.2.3', connected: true });
  await add('a-2', { site: 'berlin', app: '1.3.0', connected: false });
  await add('b-1', { site: 'basel', app: '1.2.9', connected: true, state: 'REVOKED' });
  await add('B-2', { site: 'basel', app: '11.2.3' });
  await add('blocked', { site: 'basel', app: '1.2.3', connected: true, deviceState: 'BLOCKED' });
  await add('c-1', { state: 'PENDING_ACTIVATION' });
  await group('canaries', null);
  await changeMembers(database.db, 'test', 'canaries', { add: ['a-1', 'b-2', 'BLOCKED'], remove: [] });
  await group('empty', null);
  await group('Berlin', 'attributes.site==berlin');
  await group('lines', 'template==line');
  await group('others', 'group!=CANARIES;name!=c*');
}, 60_000);
afterAll(() => database[Symbol.asyncDispose]());

type Device = {
  site?: string;
  app?: string;
  connected?: boolean;
  state?: 'REVOKED' | 'PENDING_ACTIVATION';
  deviceState?: 'BLOCKED';
};

const group = (name: string, filter: string | null) =>
  insertGroup(database.db, 'test', { id: randomUUIDv7(), name, description: '', filter });

/** Resolves when a statement waits for another's row. */
const isBlocked = () =>
  eventually(async () => {
    const [row] = await database.db.execute<{ waiting: number }>(sql`
      select count(*)::int as waiting from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`);
    return (row?.waiting ?? 0) > 0;
  });

async function resolve(targets: Targets) {
  const { groups } = await resolveGroups(database.db, groupsNamedBy(targets));
  const condition = targetCondition(targets, groups);
  const rows = await database.db
    .select()
    .from(devices)
    .where(condition)
    .orderBy(sql`lower(${devices.name})`);
  expect(await countTargets(database.db, targets, groups)).toBe(rows.length);
  return rows.map(({ name }) => name);
}

describe('a filter over devices', () => {
  const everybody = ['a-1', 'a-2', 'b-1', 'B-2', 'c-1'];

  test.each([
    ['version.app==1.2.*', ['a-1', 'b-1']],
    ['version.app==1.2.3', ['a-1']],
    ['version.app!=1.2.*', ['a-2', 'B-2', 'c-1']],
    ['version.app=in=(1.2.3,1.3.0)', ['a-1', 'a-2']],
    ['version.app=out=(1.2.3,1.3.0)', ['b-1', 'B-2', 'c-1']],
    ['version.other==*', []],
    ['version.other!=1.0', everybody],
    ['connected==true', ['a-1', 'b-1']],
    ['connected==false', ['a-2', 'B-2', 'c-1']],
    ['certificate.state==REVOKED', ['b-1']],
    ['certificate.state!=ACTIVE', ['b-1', 'c-1']],
    ['certificate.state=in=(REVOKED,PENDING_ACTIVATION)', ['b-1', 'c-1']],
    ['attributes.site!=berlin', ['b-1', 'B-2', 'c-1']],
    ['attributes.site=out=(berlin,basel)', ['c-1']],
    ['group==canaries', ['a-1', 'B-2']],
    ['group!=CANARIES', ['a-2', 'b-1', 'c-1']],
    ['group==berlin', ['a-1', 'a-2']],
    ['group!=berlin', ['b-1', 'B-2', 'c-1']],
    ['group=in=(canaries,berlin)', ['a-1', 'a-2', 'B-2']],
    ['group=out=(canaries,berlin)', ['b-1', 'c-1']],
    ['group==empty', []],
    ['group==lines', []],
    ['group!=lines', everybody],
    ['template!=line', everybody],
    ['template=out=(line,other)', everybody],
    ['group==others', ['a-2', 'b-1']],
    ['(group==others,group==canaries);connected==true', ['a-1', 'b-1']],
    ['state==BLOCKED', []],
  ])('%s finds what it says, and nobody blocked', async (filter, expected) => {
    expect(await resolve({ filter })).toEqual(expected);
  });
});

describe('targets', () => {
  test.each<[Targets, string[]]>([
    [{ devices: ['A-1', 'c-1', 'blocked'] }, ['a-1', 'c-1']],
    [{ groups: ['canaries'] }, ['a-1', 'B-2']],
    [{ groups: ['canaries', 'BERLIN', 'empty'] }, ['a-1', 'a-2', 'B-2']],
    [{ devices: ['c-1'], groups: ['berlin'], filter: 'name==b-*' }, ['a-1', 'a-2', 'b-1', 'B-2', 'c-1']],
    [{ devices: ['a-1'], groups: ['canaries'], filter: 'name==a-1' }, ['a-1', 'B-2']],
    [{ devices: [], groups: [] }, []],
    [{}, []],
  ])('%j are those of any part, each once', async (targets, expected) => {
    expect(await resolve(targets)).toEqual(expected);
  });

  test('name groups and devices that there are', async () => {
    const named = groupsNamedBy({
      groups: ['Canaries', 'gone'],
      filter: 'group==others,group=in=(canaries,also-gone)',
    });
    expect(named.toSorted()).toEqual(['also-gone', 'canaries', 'gone', 'others']);
    const { groups, unknown } = await resolveGroups(database.db, named);
    expect(unknown.toSorted()).toEqual(['also-gone', 'gone']);
    expect(groups.map(({ name }) => name).toSorted()).toEqual(['canaries', 'others']);
    expect(() => targetCondition({ groups: ['gone'] }, groups)).toThrow('there is no group gone');
    expect(() => targetCondition({ filter: 'group!=gone' }, groups)).toThrow('group: there is no group gone');
    expect(await listUnknownDevices(database.db, ['A-1', 'nobody', 'c-1'])).toEqual(['nobody']);
  });

  test('name fifty groups and no more', () => {
    const names = Array.from({ length: 51 }, (_, index) => `g${index}`);
    expect(() => groupsNamedBy({ groups: names })).toThrow('at most 50 groups');
    const half = (start: number, end: number) => `group=in=(${names.slice(start, end).join(',')})`;
    expect(() => groupsNamedBy({ groups: names.slice(0, 26), filter: half(26, 51) })).toThrow('at most 50 groups');
    expect(groupsNamedBy({ groups: names.slice(0, 25), filter: half(0, 50) })).toHaveLength(50);
  });
});

describe('the filter of a group', () => {
  test.each([
    ['a dynamic group', 'group==berlin', 'berlin is dynamic'],
    ['itself', 'name==x,group!=selfish', 'selfish'],
    ['a NUL', 'name==a\u0000', 'control character'],
    ['a group that is not there', 'group==gone', 'there is no group gone'],
    ['what is no field', 'secret==1', 'it may name'],
  ])('does not name %s', async (_, filter, detail) => {
    await expect(group('selfish', filter)).rejects.toThrow(detail);
    await expect(
      changeGroup(database.db, 'test', 'berlin', { filter: filter.replace('selfish', 'berlin') }),
    ).rejects.toThrow(detail.replace('selfish', 'berlin'));
    expect(await resolve({ groups: ['berlin'] })).toEqual(['a-1', 'a-2']);
  });

  test('leads nowhere though two are written for each other at once', async () => {
    const wide = { description: '', filter: 'name==*' };
    for (const name of ['left', 'right']) await insertGroup(database.db, 'test', { id: randomUUIDv7(), name, ...wide });
    const ends = await Promise.allSettled([
      changeGroup(database.db, 'test', 'left', { filter: 'group==right' }),
      changeGroup(database.db, 'test', 'right', { filter: 'group==left' }),
    ]);
    expect(ends.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  });

  test('keeps the groups that it names from being deleted', async () => {
    expect(await deleteGroup(database.db, 'test', 'canaries')).toBe(false);
    await group('waited-for', null);
    let deleted: Promise<boolean> | undefined;
    await database.db.transaction(async (tx) => {
      const row = { id: randomUUIDv7(), name: 'waiting', description: '', filter: 'group!=waited-for' };
      await insertGroup(tx, 'test', row);
      deleted = deleteGroup(database.db, 'test', 'waited-for');
      await isBlocked();
    });
    expect(await deleted).toBe(false);
  });

  test('is refused when a group that it names is deleted meanwhile', async () => {
    await group('fleeting', null);
    let written: Promise<unknown> | undefined;
    await database.db.transaction(async (tx) => {
      expect(await deleteGroup(tx, 'test', 'fleeting')).toBe(true);
      written = group('naming', 'group!=fleeting').catch((error: unknown) => error);
      await isBlocked();
    });
    expect(await written).toBeInstanceOf(FilterFault);
    expect(await findGroup(database.db, 'naming')).toBeUndefined();
  });

  test('that is replaced lets go of the groups that it named', async () => {
    await group('held', null);
    await group('holding', 'group==held');
    expect(await deleteGroup(database.db, 'test', 'held')).toBe(false);
    await changeGroup(database.db, 'test', 'holding', { filter: 'name==x' });
    expect(await deleteGroup(database.db, 'test', 'held')).toBe(true);
  });
});
