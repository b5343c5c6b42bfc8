import { createHash } from 'node:crypto';
import { and, asc, desc, eq, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { trustBundles } from './authority-schema.ts';
import type { Db } from './client.ts';
import { endingExecutions, isHead, noticing } from './execution-endings.ts';
import { executePrepared } from './prepared.ts';
import { authorities } from './schema.ts';

export type TrustBundleRow = typeof trustBundles.$inferSelect;

export async function findTrustBundle(db: Db): Promise<TrustBundleRow | undefined> {
  const [row] = await db.select().from(trustBundles).orderBy(desc(trustBundles.version)).limit(1);
  return row;
}

/**
 * Makes a version of the roots that are trusted now, with the job by which devices are told of it; the first is what they came
 * with. The same roots are the same version. Call it under `lockAuthorities`.
 */
export async function publishTrustBundle(tx: Db, actor: Actor): Promise<void> {
  const roots = await tx
    .select({ pem: authorities.certificatePem })
    .from(authorities)
    .where(and(eq(authorities.kind, 'root'), eq(authorities.state, 'ACTIVE')))
    .orderBy(asc(authorities.createdAt), asc(authorities.id));
  const certificatesPem = roots.map(({ pem }) => pem).join('');
  const sha256 = createHash('sha256').update(certificatesPem).digest();
  const last = await findTrustBundle(tx);
  if (roots.length === 0 || (last && sha256.equals(last.sha256))) return;
  const version = (last?.version ?? 0) + 1;
  const document = { operation: 'update-trust-bundle', version, sha256: sha256.toString('hex'), certificatesPem };
  const [job] = last
    ? await tx.execute<{ id: string }>(sql`
        insert into jobs (id, document, end_within_seconds)
        values (uuid_now(), ${JSON.stringify(document)}::text, ${endWithinSeconds}::int) returning id`)
    : [];
  await tx.insert(trustBundles).values({ version, certificatesPem, sha256, jobId: job?.id ?? null });
  await insertAudit(tx, actor, {
    action: 'trust-bundle.published',
    subject: `trust-bundle/${version}`,
    data: { roots: roots.length, sha256: sha256.toString('hex') },
  });
}

/** A device that has begun, and says nothing for a day, gives way to other work. */
const endWithinSeconds = 86_400;
/** Behind every update, before rotations (-1) only in time: an agent that does not know it holds back nothing else. */
const priority = -1;

const firstId = '00000000-0000-0000-0000-000000000000';

const inUse = sql`d.state <> 'BLOCKED' and exists (
  select from certificates c where c.device_id = d.id and c.state <> 'REVOKED' and c.not_after > now())`;

/**
 * Gives the order for this bundle to the next devices that live and have none, those that came since included, and again to
 * those that have ended it without success: after a day, two, four, then every week. Doing it again changes nothing. A page begins
 * after a device; gives the ids of those that are to be told, in order.
 */
export async function orderTrustBundle(
  db: Db,
  { jobId, after = firstId, limit }: { jobId: string; after?: string | undefined; limit: number },
): Promise<string[]> {
  const rows = await executePrepared<{ deviceId: string }>(
    db,
    sql`
    with queued as (
      insert into executions (job_id, device_id, attempt, status, priority)
      select ${jobId}::uuid, d.id, 1 + (
        select coalesce(max(e.attempt), 0) from executions e where e.job_id = ${jobId}::uuid and e.device_id = d.id
      ), 'QUEUED', ${priority}::smallint
      from devices d
      where d.id > ${after}::uuid and ${inUse} and not exists (
        select from executions e where e.job_id = ${jobId}::uuid and e.device_id = d.id
          and (e.ended_at is null or e.status = 'SUCCEEDED'
            or e.ended_at > now() - make_interval(days => least(7, (2 ^ least(e.attempt - 1, 3))::int))))
      order by d.id limit ${limit}::int
      on conflict do nothing
      returning job_id, device_id, attempt, status, priority, queued_at
    ), noticed as (${noticing(sql`(select q.device_id, ${isHead(sql`q`)} as head from queued q) as changed`)}
    ), announced as (
      insert into events (id, kind, device_id, data)
      select uuid_now(), 'execution.queued', device_id, jsonb_build_object('jobId', job_id, 'attempt', attempt) from queued
    )
    select device_id as "deviceId" from queued`,
  );
  return rows.map(({ deviceId }) => deviceId).toSorted();
}

/**
 * Ends the orders of older bundles, of which nobody needs to hear any more, and those of this one that a device has begun
 * and not finished within its time.
 */
export async function endStaleBundleOrders(db: Db, jobId: string): Promise<void> {
  await executePrepared(
    db,
    sql`
    with ending as (
      select e.job_id, e.device_id, e.attempt, case e.job_id when ${jobId}::uuid then 'TIMED_OUT' else 'CANCELED' end as status,
        case e.job_id when ${jobId}::uuid then 'it took too long' else 'there is a newer trust bundle' end as reason,
        ${isHead(sql`e`)} as head
      from trust_bundles b join executions e on e.job_id = b.job_id
      where e.ended_at is null and (e.job_id <> ${jobId}::uuid or e.due_at <= now())
      order by e.job_id, e.device_id for update of e
    ), ${endingExecutions({ rollout: sql`null::text`, at: sql`now()` })}
    select count(*)::int as count from ended`,
  );
}

export type Acknowledgement = { devices: number; acknowledged: number };

/**
 * How many of the devices that live have acknowledged a bundle with this root in it: their execution of its order has
 * succeeded. Of a root that they came with, everybody has.
 */
export async function countAcknowledged(db: Db, rootPem: string): Promise<Acknowledgement> {
  const [row] = await executePrepared<Acknowledgement>(
    db,
    sql`
    with holding as (
      select * from trust_bundles where strpos(certificates_pem, ${rootPem}::text) > 0
    ), living as not materialized (
      select c.device_id from certificates c
      where c.state <> 'REVOKED' and c.device_id is not null and c.not_after > now()
        and not exists (select from devices d where d.id = c.device_id and d.state = 'BLOCKED')
    ), counted as materialized (
      select count(distinct device_id)::int as devices from living
    )
    select devices, case when exists (select from holding where job_id is null) then devices else (
      select count(distinct k.device_id)::int from holding h cross join lateral (
        -- job by job, so that the executions of all other jobs are left alone
        select e.device_id from executions e where e.job_id = h.job_id and e.status = 'SUCCEEDED' offset 0) k
      where k.device_id in (select device_id from living)
    ) end as acknowledged
    from counted`,
  );
  if (!row) throw new Error('a count is always there');
  return row;
}
