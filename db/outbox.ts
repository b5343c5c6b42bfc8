import { X509Certificate } from 'node:crypto';
import { eq, inArray, or, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import { enrolments } from './enrolment-schema.ts';
import { certificates, outbox, temporalStore } from './schema.ts';

/** What Temporal is still to be told: the start of a workflow, or a signal to one. */
export type OutboxRow = {
  id: number;
  shard: number;
  kind: 'start' | 'signal';
  workflowId: string;
  /** The workflow's type, or the signal's name. */
  name: string;
  argument: unknown;
};

/** Inserts in the transaction of the fact, after the fact's own row is locked: then ids come in the order of commits. */
export async function appendToOutbox(db: Db, rows: Omit<OutboxRow, 'id' | 'shard'>[]): Promise<void> {
  if (rows.length === 0) return;
  await db.insert(outbox).values(rows.map((row) => ({ ...row, shard: sql`outbox_shard(${row.workflowId}::text)` })));
}

/** The first rows of each shard after the given id, in order of ids; workflows to be left alone are passed over. */
export async function listOutbox(
  db: Db,
  shards: { shard: number; after: number }[],
  { perShard, except }: { perShard: number; except: string[] },
): Promise<OutboxRow[]> {
  return executePrepared<OutboxRow>(
    db,
    sql`
    select o.id::float8 as id, o.shard, o.kind, o.workflow_id as "workflowId", o.name, o.argument
    from unnest(${sql.param(shards.map(({ shard }) => shard))}::int[],
      ${sql.param(shards.map(({ after }) => after))}::bigint[]) as s (shard, after)
    cross join lateral (
      select * from outbox where shard = s.shard::smallint and id > s.after
        and workflow_id <> all (${sql.param(except)}::text[])
      order by id limit ${perShard}::int
    ) o
    order by o.id`,
  );
}

export async function deleteFromOutbox(db: Db, ids: number[]): Promise<void> {
  if (ids.length === 0) return;
  await executePrepared(db, sql`delete from outbox where id = any (${sql.param(ids)}::bigint[])`);
}

/** How much waits, up to the given count, and for how long the oldest has. */
export async function measureOutbox(db: Db, countMax: number): Promise<{ depth: number; oldestSeconds: number }> {
  const [row] = await db.execute<{ depth: number; oldestSeconds: number }>(sql`
    select count(*)::int as depth,
      coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as "oldestSeconds"
    from (select created_at from outbox order by id limit ${countMax}) waiting`);
  return row ?? { depth: 0, oldestSeconds: 0 };
}

/**
 * Remembers whose workflows the open rows belong to. True when it was another namespace until now: of several gateways
 * that find out, one is told so.
 */
export async function adoptNamespace(db: Db, namespaceId: string): Promise<boolean> {
  const inserted = await db
    .insert(temporalStore)
    .values({ namespaceId })
    .onConflictDoNothing()
    .returning({ namespaceId: temporalStore.namespaceId });
  if (inserted.length > 0) return false;
  const changed = await db
    .update(temporalStore)
    .set({ namespaceId })
    .where(sql`${temporalStore.namespaceId} <> ${namespaceId}`)
    .returning({ namespaceId: temporalStore.namespaceId });
  return changed.length > 0;
}

/** The names that the start rows carry: db knows no workflow. */
export type Lifecycles = {
  provisionDevice: { type: string; idPrefix: string };
  sendCommand: { type: string; idPrefix: string };
  runRollout: { type: string; idPrefix: string };
  revokeCertificate: { type: string; idPrefix: string };
  decommissionDevice: { type: string; idPrefix: string };
  rotateCertificate: { type: string; idPrefix: string };
  registerDevices: { type: string; idPrefix: string };
  rolloverAuthority: { type: string; idPrefix: string };
};

/**
 * Appends the start of every lifecycle whose row is open, for a Temporal that has lost its store. Starting one that runs
 * already changes nothing. Run it in one transaction with `adoptNamespace`.
 */
export async function appendOpenLifecycles(db: Db, lifecycles: Lifecycles): Promise<void> {
  const {
    provisionDevice,
    sendCommand,
    runRollout,
    revokeCertificate,
    decommissionDevice,
    rotateCertificate,
    registerDevices,
    rolloverAuthority,
  } = lifecycles;
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${sendCommand.type}, jsonb_build_object('commandId', id)
    from (select id, ${sendCommand.idPrefix}::text || id as workflow_id from commands where finished_at is null) open
    order by id`);
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${runRollout.type}, jsonb_build_object('rolloutId', id)
    from (select id, ${runRollout.idPrefix}::text || id as workflow_id from rollouts where finished_at is null) open
    order by id`);
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${revokeCertificate.type}, jsonb_build_object('certificateId', id)
    from (select certificate_id as id, ${revokeCertificate.idPrefix}::text || certificate_id as workflow_id
      from revocations where finished_at is null) open
    order by id`);
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${decommissionDevice.type},
      jsonb_build_object('deviceId', id, 'device', name)
    from (select d.id, d.name, ${decommissionDevice.idPrefix}::text || d.id as workflow_id
      from decommissions o join devices d on d.id = o.device_id where o.finished_at is null) open
    order by id`);
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${rotateCertificate.type},
      jsonb_build_object('rotationId', id, 'deviceId', device_id, 'device', name)
    from (select r.id, r.device_id, d.name, ${rotateCertificate.idPrefix}::text || d.name as workflow_id
      from rotations r join devices d on d.id = r.device_id where r.finished_at is null) open
    order by id`);
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${registerDevices.type}, jsonb_build_object('registrationId', id)
    from (select id, ${registerDevices.idPrefix}::text || id as workflow_id from registrations
      where finished_at is null and state <> 'UPLOADING') open
    order by id`);
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${rolloverAuthority.type}, jsonb_build_object('authorityId', id)
    from (select authority_id as id, ${rolloverAuthority.idPrefix}::text || authority_id as workflow_id
      from rollovers where finished_at is null) open
    order by id`);
  const open = await db
    .select({ enrolment: enrolments, pem: certificates.pem })
    .from(enrolments)
    .leftJoin(certificates, eq(certificates.id, enrolments.certificateId))
    .where(or(inArray(enrolments.state, ['ISSUED', 'WAITING_FOR_APPROVAL', 'REGISTERED']), enrolments.supersedes));
  const starts = open.map(({ enrolment: { key, claimId, publicKey, evidence, asked, adopts }, pem }) => ({
    workflowId: provisionDevice.idPrefix + key,
    argument: JSON.stringify({
      claimId,
      evidence,
      publicKey: publicKey ? Buffer.from(publicKey).toString('base64') : publicKeyOf(pem ?? ''),
      ...(asked && { registration: asked }),
      ...(adopts && { adopts }),
    }),
  }));
  if (starts.length === 0) return;
  await db.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${provisionDevice.type}, argument
    from unnest(${sql.param(starts.map(({ workflowId }) => workflowId))}::text[],
      ${sql.param(starts.map(({ argument }) => argument))}::jsonb[]) as open (workflow_id, argument)`);
}

const publicKeyOf = (pem: string) =>
  new X509Certificate(pem).publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
