import { and, eq } from 'drizzle-orm';
import type { Actor } from './audit.ts';
import type { Db } from './client.ts';
import { updateJobTimers } from './jobs.ts';
import { awaitsApproval, conflict, giveOrder, isIn, type Order, type Outcome, type Refused } from './rollout-orders.ts';
import type { RolloutPlan } from './rollout-plan.ts';
import { canonicalJson, revise } from './rollout-revisions.ts';
import { rolloutDecisions } from './rollout-schema.ts';
import type { RolloutRow } from './rollouts.ts';

/** The consent of somebody who did not ask for it, to the plan of this hash (in hex) and to no other. */
export const approveRollout = (db: Db, order: Order, planHash: string): Promise<Outcome> =>
  giveOrder(db, order, async (tx, { rollout, now }) => {
    const refused = await judgeApproval(tx, rollout, order.actor, planHash);
    if (refused) return refused;
    return {
      change: { approvedBy: order.actor, approvedAt: now, ...afterApproval(rollout) },
      decision: { kind: 'approved', words: 'It is approved.', because: { planHash } },
      audit: { action: 'rollout.approved', data: { planHash } },
    };
  });

/** The end of a rollout that has not begun. */
export const denyRollout = (db: Db, order: Order, planHash: string, reason?: string): Promise<Outcome> =>
  giveOrder(db, order, async (tx, { rollout, now }) => {
    const refused = await judgeApproval(tx, rollout, order.actor, planHash);
    if (refused) return refused;
    if (rollout.startedAt) return conflict(rollout, 'it has begun, so it is stopped or undone');
    const said = reason === undefined ? {} : { reason };
    return {
      change: { state: 'APPROVAL_DENIED', reason: 'operator', finishedAt: now },
      decision: { kind: 'approval-denied', words: 'It is denied its approval.', because: { planHash, ...said } },
      audit: { action: 'rollout.denied', data: { planHash, ...said } },
    };
  });

async function judgeApproval(
  db: Db,
  rollout: RolloutRow,
  actor: Actor,
  planHash: string,
): Promise<Refused | undefined> {
  if (!awaitsApproval(rollout)) return conflict(rollout, 'no approval is awaited');
  if (rollout.finishedAt || isIn(rollout, 'STOPPING', 'UNDOING')) return conflict(rollout, 'it comes to its end');
  if (Buffer.from(rollout.planHash).toString('hex') !== planHash) {
    return conflict(rollout, 'it was changed since, and the hash is that of another plan');
  }
  const askers = [rollout.createdBy, ...(await listEditors(db, rollout.id))];
  if (!askers.includes(actor)) return undefined;
  return { refused: 'forbidden', words: 'Whose rollout it is, or who has changed it, does not judge it.' };
}

async function listEditors(db: Db, rolloutId: string): Promise<Actor[]> {
  const { actor, kind, rolloutId: ofRollout } = rolloutDecisions;
  const rows = await db
    .selectDistinct({ actor })
    .from(rolloutDecisions)
    .where(and(eq(ofRollout, rolloutId), eq(kind, 'changed')));
  return rows.map((row) => row.actor);
}

function afterApproval({ state, reason }: RolloutRow): Partial<RolloutRow> {
  if (state === 'WAITING_FOR_APPROVAL') return { state: 'READY' };
  return state === 'PAUSED' && reason === 'approval' ? { state: 'RUNNING', reason: null } : {};
}

const changeable = ['gate', 'limits', 'pace', 'timers', 'windows'] as const;

/**
 * Changes the plan: caps and gates hold from the next review on, timers for who is told or begins from now on. It voids an
 * approval: what has not begun waits for another, and what runs pauses for it. `change` throws what the caller answers.
 */
export const changeRollout = (db: Db, order: Order, change: (plan: RolloutPlan) => RolloutPlan): Promise<Outcome> =>
  giveOrder(db, order, async (tx, { rollout }) => {
    if (rollout.finishedAt || isIn(rollout, 'STOPPING')) return conflict(rollout, 'it comes to its end, or has');
    const before = rollout.plan;
    const plan = change(before);
    const changed = changeable.filter((part) => canonicalJson(before[part]) !== canonicalJson(plan[part]));
    if (changed.length === 0) return undefined;
    if (changed.includes('timers')) await updateJobTimers(tx, rollout.id, plan.timers);
    const revised = await revise(tx, rollout, plan);
    const { revision } = revised;
    const because = Object.fromEntries(changed.map((part) => [part, { before: before[part], after: plan[part] }]));
    return {
      change: { ...revised, ...adjust(rollout, plan), ...withoutApproval(rollout) },
      decision: { kind: 'changed', words: `Revision ${revision} changes ${changed.join(', ')}.`, because },
      audit: { action: 'rollout.changed', data: { revision, changed } },
    };
  });

/** What is left of the minute is no more than the new share, and the deadline moves with the time that there is for all. */
function adjust(
  { plan: before, rateLeft, deadlineAt }: RolloutRow,
  { pace, timers }: RolloutPlan,
): Partial<RolloutRow> {
  const longerMs = (timers.rolloutSeconds - before.timers.rolloutSeconds) * 1_000;
  return {
    rateLeft: Math.min(rateLeft, pace.perMinute ?? rateLeft),
    ...(deadlineAt && { deadlineAt: new Date(deadlineAt.getTime() + longerMs) }),
  };
}

function withoutApproval(rollout: RolloutRow): Partial<RolloutRow> {
  if (!rollout.plan.approval || rollout.approvedAt === null) return {};
  const voided = { approvedBy: null, approvedAt: null };
  if (isIn(rollout, 'READY', 'SCHEDULED')) return { ...voided, state: 'WAITING_FOR_APPROVAL' };
  return rollout.state === 'RUNNING' ? { ...voided, state: 'PAUSED', reason: 'approval' } : voided;
}
