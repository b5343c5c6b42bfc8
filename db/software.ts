import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import {
  judgeSoftware,
  type Judged,
  type Software,
  type SoftwareReport,
  type SoftwareVerdict,
} from './software-changes.ts';

/** Whom to poke: the workflow whose id is this prefix and the id of a rollout that the device is a target of. */
export type SoftwarePoke = { workflowIdPrefix: string; signal: string };

/**
 * Records what devices say that they run, in the order given. A report that says what is known writes nothing and gets
 * the same answer; so sending one twice changes nothing more. What differs is written with its event and a poke to each
 * rollout that is not finished and has the device among its targets, in one transaction. Its devices are locked before they
 * are judged, so that of two reports the later one sees what the other left.
 */
export async function recordSoftware(
  db: Db,
  reports: SoftwareReport[],
  poke: SoftwarePoke,
): Promise<SoftwareVerdict[]> {
  const known = judgeSoftware(reports, await readSoftware(db, devicesOf(reports)), new Date());
  const stirred = reports.filter(({ deviceId }) => known.changed.has(deviceId));
  if (stirred.length === 0) return verdictsOf(reports, known);
  const written = await db.transaction(async (tx) => {
    const ids = devicesOf(stirred);
    const now = await lockSoftware(tx, ids);
    const judged = judgeSoftware(stirred, await readSoftware(tx, ids), now);
    await writeSoftware(tx, judged, poke);
    return judged;
  });
  return verdictsOf(reports, known, written);
}

const devicesOf = (reports: SoftwareReport[]) => [...new Set(reports.map(({ deviceId }) => deviceId))].toSorted();

/** What these devices run; one that never said is not among them. */
export async function readSoftware(db: Db, deviceIds: string[]): Promise<Map<string, Software>> {
  type Row = { deviceId: string; revision: number; product: string | null; version: string; reportedMs: number };
  const rows = await executePrepared<Row>(
    db,
    sql`
    select r.device_id as "deviceId", r.revision::float8 as revision, s.product, s.version,
      (extract(epoch from s.reported_at) * 1000)::float8 as "reportedMs"
    from software_revisions r left join device_software s on s.device_id = r.device_id
    where r.device_id = any (${sql.param(deviceIds)}::uuid[]) and r.revision > 0
    order by s.product`,
  );
  const found = new Map<string, Software>();
  for (const { deviceId, revision, product, version, reportedMs } of rows) {
    const software = found.get(deviceId) ?? { revision, products: new Map() };
    if (product !== null) software.products.set(product, { version, reportedAt: new Date(reportedMs) });
    found.set(deviceId, software);
  }
  return found;
}

/** Holds the devices' rows, which it makes first where there are none, in the order of their keys. Returns the time. */
async function lockSoftware(db: Db, deviceIds: string[]): Promise<Date> {
  const ids = sql`unnest(${sql.param(deviceIds)}::uuid[])`;
  await executePrepared(
    db,
    sql`
    insert into software_revisions (device_id, revision)
    select id, 0 from ${ids} as d (id) where not exists (select from software_revisions where device_id = id)
    order by id on conflict do nothing`,
  );
  const [row] = await executePrepared<{ held: number; nowMs: number }>(
    db,
    sql`
    with held as (
      select device_id from software_revisions where device_id in (select * from ${ids}) order by device_id for update
    )
    select count(*)::int as held, (extract(epoch from date_trunc('milliseconds', now())) * 1000)::float8 as "nowMs"
    from held`,
  );
  if (row?.held !== deviceIds.length) throw new Error('rows that were just made are not there');
  return new Date(row.nowMs);
}

/** In the transaction whose time the changes were judged at. */
async function writeSoftware(db: Db, { changed, events }: Judged, poke: SoftwarePoke): Promise<void> {
  const devices = [...changed].map(([deviceId, { is }]) => ({ deviceId, revision: is.revision }));
  const set = [...changed].flatMap(([deviceId, { was, is }]) =>
    [...is.products]
      .filter(([product, entry]) => was.products.get(product) !== entry)
      .map(([product, { version }]) => ({ deviceId, product, version })),
  );
  const gone = [...changed].flatMap(([deviceId, { was, is }]) =>
    [...was.products.keys()].filter((product) => !is.products.has(product)).map((product) => ({ deviceId, product })),
  );
  const stirred = [...new Set(events.map(({ deviceId }) => deviceId))];
  await executePrepared(
    db,
    sql`
    with revised as (
      update software_revisions r set revision = i.revision
      from unnest(${column(devices, ({ deviceId }) => deviceId)}::uuid[],
        ${column(devices, ({ revision }) => revision)}::bigint[]) as i (device_id, revision)
      where r.device_id = i.device_id
    ), reported as (
      insert into device_software (device_id, product, version, reported_at)
      select *, date_trunc('milliseconds', now()) from unnest(${column(set, ({ deviceId }) => deviceId)}::uuid[],
        ${column(set, ({ product }) => product)}::text[], ${column(set, ({ version }) => version)}::text[])
      on conflict (device_id, product) do update set version = excluded.version, reported_at = excluded.reported_at
    ), removed as (
      delete from device_software s
      using unnest(${column(gone, ({ deviceId }) => deviceId)}::uuid[], ${column(gone, ({ product }) => product)}::text[])
        as g (device_id, product)
      where s.device_id = g.device_id and s.product = g.product
    ), announced as (
      insert into events (id, kind, device_id, data)
      select id, 'device.software-changed', device_id, jsonb_build_object('changes', changes)
      from unnest(${column(events, ({ id }) => id)}::uuid[], ${column(events, ({ deviceId }) => deviceId)}::uuid[],
        ${column(events, ({ changes }) => JSON.stringify(changes))}::jsonb[]) as e (id, device_id, changes)
      on conflict do nothing
    )
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'signal', workflow_id, ${poke.signal}::text, '{}' from (
      select distinct ${poke.workflowIdPrefix}::text || t.rollout_id as workflow_id
      from rollout_targets t join rollouts r on r.id = t.rollout_id and r.finished_at is null
      where t.device_id = any (${sql.param(stirred)}::uuid[])
    ) open`,
  );
}

/** One array parameter of an unnest. */
const column = <Row>(rows: Row[], read: (row: Row) => string | number) => sql`${sql.param(rows.map(read))}`;

function verdictsOf(reports: SoftwareReport[], ...judged: Judged[]): SoftwareVerdict[] {
  return reports.map((report) => {
    const verdict = judged.findLast(({ verdicts }) => verdicts.has(report))?.verdicts.get(report);
    if (verdict === undefined) throw new Error('every report has a verdict');
    return verdict;
  });
}
