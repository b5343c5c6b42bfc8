import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { beginDue, dueCertificates } from '../../db/rotation-beginnings.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet } from '../support/gateway.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await makeDatabase();
  await createFleet(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const hourMs = 3_600_000;
const workflow = { idPrefix: 'rotate-certificate/', name: 'rotateCertificate' };

/** Devices with a certificate of a year each, issued evenly over so many days before `at`; their ids are the same in each run. */
const makeFleet = (prefix: string, count: number, days: number, at: Date) =>
  database.db.execute(sql`
    with made as (
      insert into devices (id, name, state)
      select md5(${prefix}::text || n)::uuid, ${prefix}::text || n, 'ACTIVE' from generate_series(1, ${count}::int) n
      returning id, name
    ), numbered as (
      select *, row_number() over (order by id) as n from made
    )
    insert into certificates (id, kind, device_id, subject, authority_id, serial, fingerprint, spki_sha256, pem, state,
      not_before, not_after, issued_at, activated_at)
    select encode(sha256(name::bytea), 'hex'), 'device', id, name, (select id from authorities where kind = 'issuing'), name,
      sha256(name::bytea), sha256(name::bytea), '', 'ACTIVE', born, born + interval '365 days', born, born
    from (select *, ${at.toISOString()}::timestamptz - n * make_interval(secs => ${(days * 86_400) / count}::float8) as born
      from numbered) b`);

/** What the lifecycles of begun rotations do to the ledger when every device answers: another certificate, and a day of grace. */
const rotate = (at: Date) =>
  database.db.execute(sql`
    with begun as (
      update rotations set state = 'PROVEN', proven_at = ${at.toISOString()}::timestamptz,
        new_certificate_id = encode(sha256(id::text::bytea), 'hex')
      where finished_at is null and state = 'BEGUN' returning *
    ), issued as (
      insert into certificates (id, kind, device_id, subject, authority_id, serial, fingerprint, spki_sha256, pem, state,
        not_before, not_after, issued_at, activated_at)
      select b.new_certificate_id, 'device', b.device_id, '', c.authority_id, b.id, sha256(b.id::text::bytea),
        sha256(b.id::text::bytea), '', 'ACTIVE', proven_at, proven_at + interval '365 days', proven_at, proven_at
      from begun b join certificates c on c.id = b.certificate_id
    ), over as (
      update rotations set state = 'ROTATED', finished_at = ${at.toISOString()}::timestamptz
      where finished_at is null and state = 'PROVEN' and proven_at <= ${at.toISOString()}::timestamptz - interval '1 day'
      returning certificate_id
    )
    update certificates c set state = 'REVOKED', revoked_at = ${at.toISOString()}::timestamptz
    from over where c.id = over.certificate_id`);

test('a batch of one day is spread over the weeks around two thirds of its life', async () => {
  const rows = await database.db.execute<{ hours: number; most: number; mean: number; days: number }>(sql`
    select count(*)::int as hours, max(devices)::int as most, avg(devices)::float8 as mean,
      (extract(epoch from max(hour) - min(hour)) / 86400)::float8 as days
    from (
      select date_trunc('hour', certificate_due('2026-01-01', '2027-01-01', md5('d' || n)::uuid)) as hour, count(*) as devices
      from generate_series(1, 10000) n group by 1
    ) hourly`);
  const { most = 0, mean = 0, days = 0 } = rows[0] ?? {};
  expect(days).toBeGreaterThan(34);
  expect(days).toBeLessThan(37);
  expect(most).toBeLessThanOrEqual(3 * mean);
});

test('in a year of 10,000 devices that rotate every forty days, no hour has more than three times the mean', async () => {
  const rows = await database.db.execute<{ most: number; mean: number; hours: number }>(sql`
    with recursive due as (
      select id, certificate_due(born, born + interval '60 days', id) as at
      from (select md5('pump-' || n)::uuid as id, timestamptz '2030-01-01' - n * interval '5 minutes 45 seconds' as born
        from generate_series(1, 10000) n) fleet
      union all
      select id, certificate_due(at, at + interval '60 days', id) from due where at < '2031-01-01'
    )
    select max(devices)::int as most, (sum(devices) / (365 * 24))::float8 as mean, count(*)::int as hours from (
      select count(*) as devices from due where at >= '2030-01-01' and at < '2031-01-01' group by date_trunc('hour', at)
    ) hourly`);
  const { most = 0, mean = 0, hours = 0 } = rows[0] ?? {};
  expect(hours).toBeGreaterThan(8_700);
  expect(most).toBeLessThanOrEqual(3 * mean);
});

test('a year passes over 10,000 devices: each has a certificate at every moment, and one rotation at a time', async () => {
  const start = Date.UTC(2030, 0, 1);
  await makeFleet('pump-', 10_000, 243, new Date(start));
  await database.db.execute(sql`analyze certificates, devices`);
  // The slowest policy that there may be: a run a day.
  for (let day = 0; day <= 365; day += 1) {
    const at = new Date(start + day * 24 * hourMs);
    await beginDue(database.db, { policy: 'default', at, limit: 1_000 }, workflow);
    await rotate(at);
    // As the database does by itself, in a year of its own.
    if (day % 30 === 0) await database.db.execute(sql`vacuum (analyze) certificates, rotations`);
  }
  const [bare] = await database.db.execute<{ late: number; two: number; devices: number; least: number }>(sql`
    select count(*) filter (where r.proven_at >= o.not_after or r.proven_at >= coalesce(o.revoked_at, 'infinity'))::int as late,
      count(*) filter (where r.begun_at < r.before)::int as two, count(distinct r.device_id)::int as devices,
      min(r.count)::int as least
    from (select *, count(*) over (partition by device_id), lag(coalesce(finished_at, 'infinity')) over (
      partition by device_id order by begun_at) as before from rotations) r
    join certificates o on o.id = r.certificate_id`);
  expect(bare).toEqual({ late: 0, two: 0, devices: 10_000, least: 1 });
}, 60_000);

test('of 20,000 devices, the index gives the 500 that are due, and little else is read', async () => {
  for (const table of ['rotations', 'certificates', 'outbox'])
    await database.db.execute(sql.raw(`truncate ${table} cascade`));
  await database.db.execute(sql`delete from devices`);
  const at = new Date();
  await makeFleet('young-', 19_500, 200, at);
  await makeFleet('late-', 500, 0.001, new Date(at.getTime() - 300 * 24 * hourMs));
  await database.db.execute(sql`analyze certificates`);
  await database.db.execute(sql`analyze devices`);
  const page = { policy: 'default', at, limit: 500 };
  const rows = await database.db.execute<{ 'QUERY PLAN': string }>(sql`
    explain (analyze, buffers, timing off) ${dueCertificates(page)}`);
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  expect(plan).toMatch(/Index Scan (using|on) certificates_due/);
  expect(plan).not.toMatch(/Seq Scan on (certificates|devices)/);
  expect(plan).not.toMatch(/Rows Removed by Filter: \d{4}/);
  const begun = await beginDue(database.db, page, workflow);
  expect(begun).toHaveLength(500);
  expect(await beginDue(database.db, page, workflow)).toEqual([]);
}, 60_000);
