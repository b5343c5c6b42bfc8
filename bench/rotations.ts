import { setTimeout as pause } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import type { Database, Db } from '../db/client.ts';
import { beginDue } from '../db/rotation-beginnings.ts';
import type { BareWorkerJobs } from './bare/worker.ts';
import { makeDevices } from './fleet.ts';
import { openHelper } from './jobs.ts';
import { interleave, judge, rateRow, ratioOf, spread, type Row } from './measure.ts';
import type { Rig } from './rig.ts';

const count = 32;
const atATime = 8;
const taskQueue = 'bench-bare-rotations';

/** From the order until the old certificate is revoked, without grace; the device's own TLS connections are part of it. */
export async function rotations(rig: Rig): Promise<Row[]> {
  const { load, running, db } = rig;
  const { api, temporal } = running.stack;
  await using worker = await openHelper<BareWorkerJobs>(import.meta.resolve('./bare/worker.ts'));
  await worker.run('work', { ...temporal, taskQueue });
  await load.run('connectTemporal', temporal);
  await db.execute(sql`update rotation_policies set grace_hours = 0 where name = 'default'`);
  const server = rig.server();
  const pairs = await interleave({
    rounds: 4,
    async product() {
      await load.run('prepareRotations', { server, devices: await makeDevices(rig, count) });
      const startedAt = performance.now();
      await load.run('rotate', { server, api, atATime });
      while (await isUnderWay(db)) await pause(5);
      const perSecond = (count / (performance.now() - startedAt)) * 1_000;
      await load.run('endRotations', undefined);
      return perSecond;
    },
    baseline: () => load.run('turnWorkflows', { taskQueue, count: count * 2, atATime }),
  });
  return [rateRow('rotations, order to old retired, 8 at a time', pairs, { must: 0.6, aim: 0.9 })];
}

async function isUnderWay(db: Database): Promise<boolean> {
  const rows = await db.execute(sql`select 1 from rotations where finished_at is null limit 1`);
  return rows.length > 0;
}

const fleet = 100_000;
const due = 500;

/** What begins them, with rows, audit entries and starts, against the bare query; each round is rolled back. */
export async function expiring({ db }: Rig): Promise<Row[]> {
  await makeFleet(db);
  const [page] = await db.execute<{ at: Date }>(sql`select now() as at`);
  const at = new Date(page?.at ?? Number.NaN);
  const workflow = { idPrefix: 'rotate-certificate/', name: 'rotateCertificate' };
  const pairs = await interleave({
    rounds: 7,
    product: () =>
      timed(db, async (tx) => {
        const begun = await beginDue(tx, { policy: 'default', at, limit: 1_000 }, workflow);
        if (begun.length !== due) throw new Error(`${begun.length} were begun`);
      }),
    baseline: () =>
      timed(db, async (tx) => {
        const rows = await tx.execute(sql`
          select id, device_id from certificates
          where state = 'ACTIVE' and device_id is not null
            and certificate_due(not_before, not_after, device_id) <= ${at.toISOString()}::timestamptz
          order by certificate_due(not_before, not_after, device_id), id limit 1000`);
        if (rows.length !== due) throw new Error(`${rows.length} are due`);
      }),
  });
  const ratio = ratioOf(pairs);
  return [
    {
      what: 'rotateExpiring over 100,000 devices, 500 due',
      figure: `${spread(pairs.product)} ms`,
      baseline: `${spread(pairs.baseline)} ms`,
      ratio: ratio.toPrecision(2),
      must: '≤ 10',
      aim: '≤ 3',
      verdict: judge(ratio, { must: 10, aim: 3 }),
    },
  ];
}

/** Certificates of a year: those of the last days before the end are due, the others young. */
async function makeFleet(db: Database): Promise<void> {
  await db.execute(sql`
    with made as (
      insert into devices (id, name, state)
      select gen_random_uuid(), 'expiring-' || n, 'ACTIVE' from generate_series(1, ${fleet}::int) n
      returning id, name
    )
    insert into certificates (id, kind, device_id, subject, authority_id, serial, fingerprint, spki_sha256, pem, state,
      not_before, not_after, issued_at, activated_at)
    select encode(sha256(name::bytea), 'hex'), 'device', id, name, (select id from authorities where kind = 'issuing'), name,
      sha256(name::bytea), sha256(name::bytea), '', 'ACTIVE', born, born + interval '365 days', born, born
    from (select *, now() - case when n <= ${due}::int then 300 + n::float8 / 10000 else 200 * random() end
        * interval '1 day' as born
      from (select *, row_number() over () as n from made) numbered) b`);
  await db.execute(sql`vacuum (analyze) devices, certificates`);
}

async function timed(db: Database, work: (tx: Db) => Promise<void>): Promise<number> {
  let took = Number.NaN;
  const rolledBack = new Error('rolled back');
  await db
    .transaction(async (tx) => {
      const startedAt = performance.now();
      await work(tx);
      took = performance.now() - startedAt;
      throw rolledBack;
    })
    .catch((error: unknown) => {
      if (error !== rolledBack) throw error;
    });
  return took;
}
