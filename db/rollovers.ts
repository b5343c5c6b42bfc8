import { and, eq, inArray, isNull, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { rollovers } from './authority-schema.ts';
import { lockAuthorities } from './authorities.ts';
import type { Db } from './client.ts';
import { appendToOutbox } from './outbox.ts';
import type { RotationWorkflow } from './rotation-beginnings.ts';
import { authorities } from './schema.ts';

export type RolloverRow = typeof rollovers.$inferSelect;

export async function findRollover(db: Db, authorityId: string): Promise<RolloverRow | undefined> {
  const [row] = await db.select().from(rollovers).where(eq(rollovers.authorityId, authorityId));
  return row;
}

/**
 * Begins that the authority takes over, with the start of its lifecycle. Begun already, it stays as it is, but that the time
 * for acknowledgements may be made shorter or longer until the switch.
 */
export async function beginRollover(
  db: Db,
  actor: Actor,
  { authorityId, acknowledgeBy, workflow }: { authorityId: string; acknowledgeBy: Date; workflow: RotationWorkflow },
): Promise<void> {
  await db.transaction(async (tx) => {
    const begun = await tx
      .insert(rollovers)
      .values({ authorityId, askedBy: actor, acknowledgeBy })
      .onConflictDoUpdate({
        target: rollovers.authorityId,
        set: { acknowledgeBy },
        setWhere: isNull(rollovers.switchedAt),
      })
      .returning();
    if (begun.length === 0) return;
    const data = { acknowledgeBy: acknowledgeBy.toISOString() };
    await insertAudit(tx, actor, { action: 'authority.rollover-begun', subject: `authority/${authorityId}`, data });
    const { idPrefix, name } = workflow;
    await appendToOutbox(tx, [{ kind: 'start', workflowId: idPrefix + authorityId, name, argument: { authorityId } }]);
  });
}

/**
 * From the commit on this authority issues, and all others are retired, with the start of the rotations of what lives under
 * them. True when it issues, whoever did it; false when it cannot any more.
 */
export async function switchAuthority(
  db: Db,
  actor: Actor,
  { authorityId, runs, unacknowledged }: { authorityId: string; runs: RotationWorkflow; unacknowledged: number },
): Promise<boolean> {
  return db.transaction(async (tx) => {
    await lockAuthorities(tx);
    const state = await activate(tx, actor, { authorityId, unacknowledged });
    if (state !== 'activated') return state === 'active';
    await retireOthers(tx, actor, authorityId);
    await tx
      .update(rollovers)
      .set({ switchedAt: sql`clock_timestamp()` })
      .where(eq(rollovers.authorityId, authorityId));
    await startRotationRuns(tx, runs);
    return true;
  });
}

/** Makes one that stands by the one that issues. Call it under `lockAuthorities`. */
export async function activate(
  tx: Db,
  actor: Actor,
  { authorityId, unacknowledged }: { authorityId: string; unacknowledged: number },
): Promise<'activated' | 'active' | 'ended'> {
  const activated = await tx
    .update(authorities)
    .set({ state: 'ACTIVE' })
    .where(and(eq(authorities.id, authorityId), eq(authorities.state, 'STANDBY'), eq(authorities.kind, 'issuing')))
    .returning();
  if (activated.length === 0) {
    const [row] = await tx.select().from(authorities).where(eq(authorities.id, authorityId));
    return row?.state === 'ACTIVE' ? 'active' : 'ended';
  }
  const subject = `authority/${authorityId}`;
  await insertAudit(tx, actor, { action: 'authority.activated', subject, data: { unacknowledged } });
  await announceState(tx, [authorityId]);
  return 'activated';
}

async function retireOthers(tx: Db, actor: Actor, keep: string): Promise<void> {
  const retired = await tx
    .update(authorities)
    .set({ state: 'RETIRED', endedAt: sql`clock_timestamp()` })
    .where(
      and(eq(authorities.kind, 'issuing'), inArray(authorities.state, ['ACTIVE']), sql`${authorities.id} <> ${keep}`),
    )
    .returning({ id: authorities.id });
  const entries = retired.map(({ id }) => {
    return { action: 'authority.retired' as const, subject: `authority/${id}`, data: {} };
  });
  await insertAudit(tx, actor, ...entries);
  const ids = retired.map(({ id }) => id);
  await announceState(tx, ids);
}

/** `authority.activated`, `authority.retired` or `authority.revoked`, as their rows say. */
export async function announceState(tx: Db, ids: string[]): Promise<void> {
  await tx.execute(sql`
    insert into events (id, kind, subject, data)
    select uuid_now(), case state when 'ACTIVE' then 'authority.activated' else 'authority.' || lower(state) end,
      'authority/' || id, jsonb_build_object('authorityId', id)
    from authorities where id = any (${sql.param(ids)}::uuid[])`);
}

/** Has every policy look at once for what is to be replaced, at its own pace. */
export async function startRotationRuns(tx: Db, { idPrefix, name }: RotationWorkflow): Promise<void> {
  await tx.execute(sql`
    insert into outbox (shard, kind, workflow_id, name, argument)
    select outbox_shard(workflow_id), 'start', workflow_id, ${name}::text, jsonb_build_object('policy', policy)
    from (select name as policy, ${idPrefix}::text || name as workflow_id from rotation_policies where not paused) p`);
}

/** How many certificates live under authorities that issue no more. */
export async function countDisplaced(db: Db): Promise<number> {
  const [row] = await db.execute<{ count: number }>(sql`
    select count(*)::int as count from certificates c
    where c.authority_id = any (array(select id from authorities where kind = 'issuing' and state in ('RETIRED', 'REVOKED')))
      and c.state <> 'REVOKED' and c.not_after > now()`);
  return row?.count ?? 0;
}

/** Ends the rollover, once. */
export async function finishRollover(db: Db, actor: Actor, authorityId: string, outcome: string): Promise<void> {
  await db.transaction(async (tx) => {
    const finished = await tx
      .update(rollovers)
      .set({ finishedAt: sql`clock_timestamp()` })
      .where(and(eq(rollovers.authorityId, authorityId), isNull(rollovers.finishedAt)))
      .returning();
    if (finished.length === 0) return;
    const subject = `authority/${authorityId}`;
    await insertAudit(tx, actor, { action: 'authority.rollover-finished', subject, data: { outcome } });
  });
}
