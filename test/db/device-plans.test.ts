import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { compileFilter } from '../../db/filters.ts';
import { devices } from '../../db/schema.ts';
import { findDeviceFields, groupsNamedBy, resolveGroups, targetCondition, type Targets } from '../../db/targets.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

/** 100,000 devices with all that filters look at. */
let database: TestDatabase;
beforeAll(async () => {
  database = await makeDatabase();
  await database.db.execute(sql`
    insert into devices (id, name, state, attributes)
    select uuid_now(), 'pump-' || lpad(n::text, 6, '0'), 'ACTIVE',
      jsonb_build_object('site', 'site-' || n % 1000, 'hardware', 'rev-' || n % 3)
    from generate_series(0, 99999) n`);
  await database.db.execute(sql`create view numbered as select id, name, right(name, 6)::int as n from devices`);
  await database.db.execute(sql`
    insert into presence (device_id, connected, client_id, version, certificate_id, changed_at)
    select id, n % 10 = 0, name, 1, '', now() from numbered`);
  await database.db.execute(sql`
    insert into device_software (device_id, product, version)
    select id, product, '1.' || n % 50 || '.' || n % 7 from numbered, unnest(array['app', 'boot']) product`);
  await database.db.execute(sql`
    insert into authorities (id, kind, name, certificate_pem, spki_sha256, state, not_before, not_after)
    values (uuid_now(), 'issuing', '', '', '', 'ACTIVE', now(), now())`);
  await database.db.execute(sql`
    insert into certificates (id, kind, device_id, subject, authority_id, serial, fingerprint, spki_sha256, pem, state, not_before, not_after)
    select encode(digest, 'hex'), 'device', d.id, d.name, a.id, n::text, digest, digest, '',
      case when n % 2000 = 0 then 'PENDING_ACTIVATION' else 'ACTIVE' end, now(), now()
    from authorities a, numbered d cross join lateral sha256(d.name::bytea) digest where n % 5 = 0`);
  await database.db.execute(sql`
    insert into groups (id, name, filter) values (uuid_now(), 'few', null), (uuid_now(), 'half', null),
      (uuid_now(), 'dynamic', 'attributes.site==site-7;version.app==1.7.*')`);
  await database.db.execute(sql`
    insert into group_members (group_id, device_id)
    select g.id, d.id from groups g, numbered d where (g.name = 'few' and n % 1000 = 7) or (g.name = 'half' and n % 2 = 0)`);
  await database.db.execute(sql`vacuum analyze`);
}, 240_000);
afterAll(() => database[Symbol.asyncDispose]());

async function explain(name: string, statement: ReturnType<typeof sql>): Promise<string> {
  const rows = await database.db.execute<{ 'QUERY PLAN': string }>(
    sql`explain (analyze, costs off, timing off, buffers off) ${statement}`,
  );
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  process.stdout.write(`\n${name}\n${plan}\n`);
  return plan;
}

/** A page of GET /devices. */
async function explainPage(filter: string): Promise<string> {
  const condition = compileFilter(filter, await findDeviceFields(database.db, filter));
  return explain(
    `GET /devices?filter=${filter}`,
    sql`select * from ${devices} where ${condition} order by lower(${devices.name}) limit 101`,
  );
}

/** Which of two indexes leads to a page hangs on what the planner's sample of the attributes makes it expect. */
test.each([
  ['name==pump-0001*', ['devices_name']],
  ['attributes.site==site-7', ['devices_attributes|devices_name']],
  ['group==few', ['group_members_pkey', 'devices_pkey']],
  ['group==half', ['devices_name', 'group_members']],
  ['group==dynamic', ['devices_attributes|devices_name', 'device_software']],
  ['version.app==1.7.5', ['device_software_version', 'devices_pkey']],
  ['version.app!=1.7.*', ['devices_name', 'device_software']],
  ['connected==true', ['devices_name', 'presence_pkey']],
  ['certificate.state==PENDING_ACTIVATION', ['certificates_state', 'devices_pkey']],
  ['attributes.site==site-7;version.app!=1.7.*;connected==false', ['devices_attributes|devices_name', 'presence_pkey']],
])('a page of the devices where %s reads no table from end to end', async (filter, indexes) => {
  const plan = await explainPage(filter);
  for (const index of indexes) expect(plan).toMatch(new RegExp(index));
  expect(plan).not.toContain('Seq Scan');
});

/** Two thousand of the devices, and those that match either side. */
test.each([
  ['version.app==1.7.*', /device_software_version|devices_name/],
  ['group==few,connected==true', /devices_name/],
])('a page of the devices where %s is led by an index', async (filter, index) => {
  expect(await explainPage(filter)).toMatch(index);
});

test.each<[Targets, string[]]>([
  [{ devices: ['pump-000001', 'PUMP-099999'] }, ['devices_name']],
  [{ groups: ['few'] }, ['group_members_pkey', 'devices_pkey']],
  [{ filter: 'attributes.site==site-7' }, ['devices_attributes']],
  [
    { devices: ['pump-000001'], groups: ['few', 'dynamic'], filter: 'version.app==1.7.5' },
    ['devices_name', 'group_members_pkey', 'devices_attributes', 'device_software_version'],
  ],
])('targets %j are found by the indexes of their parts', async (targets, indexes) => {
  const { groups } = await resolveGroups(database.db, groupsNamedBy(targets));
  const condition = targetCondition(targets, groups);
  const plan = await explain(
    `targets ${JSON.stringify(targets)}`,
    sql`select ${devices.id} from ${devices} where ${condition}`,
  );
  for (const index of indexes) expect(plan).toContain(index);
  expect(plan).not.toContain('Seq Scan');
});
