import { sql, type SQL } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import type { RotationReason } from './rotation-schema.ts';
import { isNewest, policyOf } from './rotations.ts';

export type RotationWorkflow = { idPrefix: string; name: string };
/** Where the next page begins: after this certificate. */
export type DuePlace = { at: string; id: string };
export type BegunRotation = {
  rotationId: string;
  deviceId: string;
  device: string;
  place: string;
  certificateId: string;
};

type Begin = {
  at?: Date | undefined;
  reason: RotationReason;
  askedBy: string;
  /** Certificates as `c` (id, device_id, device, place), in the order in which they are taken. */
  candidates: SQL;
  /** Undefined when the workflow runs already. */
  workflow?: RotationWorkflow | undefined;
};

/** The database's own time, unless a clock is handed in. */
const instant = (at?: Date) => (at ? sql`${at.toISOString()}::timestamptz` : sql`now()`);

const place = sql`certificate_due(c.not_before, c.not_after, c.device_id)`;

/**
 * Begins rotations, in one statement with the start of the lifecycle of each: at most one of a device is open, and what is
 * begun already stays as it is.
 */
async function begin(db: Db, { at, reason, askedBy, candidates, workflow }: Begin): Promise<BegunRotation[]> {
  return executePrepared<BegunRotation>(
    db,
    sql`
    with candidate as materialized (${candidates}), begun as (
      insert into rotations (id, device_id, certificate_id, policy, reason, asked_by, state, attempt, begun_at)
      select uuid_now(), c.device_id, c.id, c.policy, ${reason}::text, ${askedBy}::text, 'BEGUN', coalesce((
          select r.attempt + 1 from rotations r
          where r.device_id = c.device_id and r.certificate_id = c.id and r.again_at is not null
          order by r.id desc limit 1), 1), ${instant(at)}
      from candidate c
      order by c.device_id
      on conflict (device_id) where finished_at is null do nothing
      returning id, device_id, certificate_id
    ), named as (
      select b.id, b.device_id, b.certificate_id, d.name as device, ${place} as place
      from begun b join certificates c on c.id = b.certificate_id join devices d on d.id = b.device_id
    ), started as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'start', workflow_id, ${workflow?.name ?? ''}::text,
        jsonb_build_object('rotationId', id, 'deviceId', device_id, 'device', device)
      from (select *, ${workflow?.idPrefix ?? ''}::text || device as workflow_id from named) n
      where ${workflow !== undefined}::boolean
    ), recorded as (
      insert into audit (id, actor, action, subject, data)
      select uuid_now(), ${askedBy}::text, 'rotation.begun', 'device/' || device,
        jsonb_build_object('rotationId', id, 'certificateId', certificate_id, 'reason', ${reason}::text)
      from named
    )
    select id as "rotationId", device_id as "deviceId", device, place::text, certificate_id as "certificateId"
    from named order by named.place, certificate_id`,
  );
}

const isInService = sql`c.state = 'ACTIVE' and d.state <> 'BLOCKED'`;
/**
 * Nothing of it is under way, and the last try was not lately: a device's last row says both, and is one step in an index
 * however many there are.
 */
const isFree = (at: SQL) => sql`coalesce((
  select r.finished_at is not null and (r.certificate_id <> c.id or coalesce(r.again_at <= ${at}, true))
  from rotations r where r.device_id = c.device_id order by r.id desc limit 1), true)`;

export type DuePage = { policy: string; at?: Date | undefined; limit: number; after?: DuePlace | undefined };

/** The next certificates of the policy whose time has come, as its statement finds them: by the index of what is due. */
export const dueCertificates = ({ policy, at, limit, after }: DuePage) => {
  const now = instant(at);
  // The bound is one value, so that the index is read in its order and no further.
  return sql`
    select c.id, c.device_id, d.name as device, ${place} as place, ${policy}::text as policy
    from certificates c join devices d on d.id = c.device_id
    where ${place} <= (
        select ${now} + make_interval(days => p.earlier_days) from rotation_policies p
        where p.name = ${policy}::text and not p.paused)
      and (${place}, c.id) > (${after?.at ?? '-infinity'}::timestamptz, ${after?.id ?? ''}::text)
      and c.device_id is not null and ${isInService} and c.not_after > ${now}
      and ${policyOf(sql`d`)} = ${policy}::text and ${isFree(now)} and ${isNewest(sql`c`)}
    order by ${place}, c.id limit ${limit}::int`;
};

const dueBy = 'system/rotation';

export const beginDue = (db: Db, page: DuePage, workflow: RotationWorkflow): Promise<BegunRotation[]> =>
  begin(db, {
    at: page.at,
    reason: 'due',
    askedBy: dueBy,
    candidates: dueCertificates(page),
    workflow,
  });

/** Those whose authority issues no more, or whose manufacturer's is retired: due at once, whatever their age. Two parts, each with its index. */
export const beginDisplaced = (
  db: Db,
  { policy, at, limit }: Omit<DuePage, 'after'>,
  workflow: RotationWorkflow,
): Promise<BegunRotation[]> =>
  begin(db, {
    at,
    reason: 'authority',
    askedBy: dueBy,
    workflow,
    candidates: sql`
      select c.id, c.device_id, d.name as device, ${place} as place, p.name as policy
      from rotation_policies p
      cross join (
        select * from certificates where authority_id = any (array(select id from authorities where state <> 'ACTIVE'))
        union all
        select * from certificates where manufacturer_authority_id = any (
          array(select id from manufacturer_authorities where state <> 'ACTIVE'))
      ) c
      join devices d on d.id = c.device_id
      where p.name = ${policy}::text and not p.paused and c.device_id is not null and ${isInService}
        and c.not_after > ${instant(at)} and ${policyOf(sql`d`)} = p.name
        and ${isFree(instant(at))} and ${isNewest(sql`c`)}
      limit ${limit}::int`,
  });

/**
 * That of one device, because somebody asked. It need not be due, and a pause after a failure does not matter; only a recovery
 * begins after the certificate's end.
 */
export const beginOf = (
  db: Db,
  {
    deviceId,
    at,
    ...asked
  }: Pick<Begin, 'reason' | 'askedBy' | 'workflow'> & { deviceId: string; at?: Date | undefined },
): Promise<BegunRotation[]> =>
  begin(db, {
    ...asked,
    at,
    candidates: sql`
      select c.id, c.device_id, d.name as device, ${place} as place, ${policyOf(sql`d`)} as policy
      from certificates c join devices d on d.id = c.device_id
      where c.device_id = ${deviceId}::uuid and ${isInService} and ${isNewest(sql`c`)}
        and (c.not_after > ${instant(at)} or ${asked.reason === 'recovery'}::boolean)`,
  });

/** How many of the policy's rotations are under way on devices that are connected: orders to those that are away wait for them. */
export async function countUnderWay(db: Db, policy: string): Promise<number> {
  const [row] = await executePrepared<{ count: number }>(
    db,
    sql`
    select count(*)::int as count from rotations r left join presence p on p.device_id = r.device_id
    where r.policy = ${policy}::text and r.finished_at is null
      and (r.state in ('BEGUN', 'ISSUED') or (r.state = 'ORDERED' and p.connected))`,
  );
  return row?.count ?? 0;
}

/**
 * Starts again the lifecycle of rotations that were begun a while ago, and whose order never went out: their start met a
 * lifecycle that was about to end.
 */
export async function restartBegun(db: Db, policy: string, workflow: RotationWorkflow): Promise<void> {
  await executePrepared(
    db,
    sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${workflow.name}::text,
      jsonb_build_object('rotationId', id, 'deviceId', device_id, 'device', name)
    from (select r.id, r.device_id, d.name, ${workflow.idPrefix}::text || d.name as workflow_id
      from rotations r join devices d on d.id = r.device_id
      where r.policy = ${policy}::text and r.finished_at is null and r.state = 'BEGUN'
        and r.begun_at < now() - interval '10 minutes') lost`,
  );
}
