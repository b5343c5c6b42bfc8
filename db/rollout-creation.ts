import { sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { insertJobs } from './jobs.ts';
import { appendToOutbox } from './outbox.ts';
import { documentOf } from './release-documents.ts';
import { findRelease } from './releases.ts';
import { listRolloutFaults, type RolloutFault, type Told } from './rollout-faults.ts';
import { hashAsked } from './rollout-revisions.ts';
import type { RolloutPlan } from './rollout-plan.ts';
import { rollouts, waves } from './rollout-schema.ts';

export type NewRollout = {
  /** The job has the same id: what devices are told to execute is what the operator asked for. */
  id: string;
  name: string;
  plan: RolloutPlan;
  told: Told;
  /** The lifecycle's id and type. */
  workflow: { id: string; name: string };
};

/**
 * Records a rollout with everything that follows from it (waves, job, the start of its lifecycle, audit, event) in one
 * transaction. With a fault, nothing is left behind. Its devices are enlisted by its lifecycle.
 */
export async function insertRollout(db: Db, actor: Actor, asked: NewRollout): Promise<RolloutFault[]> {
  const { id, name, plan, told, workflow } = asked;
  return db.transaction(async (tx) => {
    const faults = await listRolloutFaults(tx, plan, told);
    if (faults.length > 0) return faults;
    const startsAt = plan.start === 'now' || plan.start === 'manual' ? null : new Date(plan.start);
    const { startWithinSeconds, endWithinSeconds, rolloutSeconds } = plan.timers;
    await tx.insert(rollouts).values({
      id,
      name,
      state: 'CREATING',
      plan,
      planHash: hashAsked({ name, plan, ...('release' in told ? told : { document: told.document }) }),
      jobId: id,
      releaseId: 'release' in told ? told.release : null,
      priority: plan.priority,
      startsAt,
      // So long it may wait to be begun; then it has as long again.
      deadlineAt: sql`greatest(now(), ${startsAt?.toISOString() ?? null}::timestamptz)
        + make_interval(secs => ${rolloutSeconds}::int)`,
      // The first minute's share is due at once.
      rateAt: new Date(0),
      createdBy: actor,
    });
    const content =
      'release' in told
        ? { document: await describeRelease(tx, told.release), releaseId: told.release }
        : { document: told.document };
    await insertJobs(tx, [{ id, rolloutId: id, ...content, startWithinSeconds, endWithinSeconds }]);
    await tx
      .insert(waves)
      .values(plan.waves.map((_, index) => ({ rolloutId: id, number: index + 1, state: 'WAITING' as const })));
    const data = 'release' in told ? { release: told.release } : {};
    await insertAudit(tx, actor, { action: 'rollout.created', subject: `rollout/${id}`, data });
    await tx.execute(sql`
      insert into events (id, kind, subject, data)
      values (uuid_now(), 'rollout.created', ${`rollout/${id}`}::text, jsonb_build_object('rolloutId', ${id}::text))`);
    await appendToOutbox(tx, [
      { kind: 'start', workflowId: workflow.id, name: workflow.name, argument: { rolloutId: id } },
    ]);
    return [];
  });
}

async function describeRelease(db: Db, id: string): Promise<string> {
  const found = await findRelease(db, id);
  if (!found) throw new Error('a release is never deleted');
  return documentOf({ ...found.release, size: found.size });
}
