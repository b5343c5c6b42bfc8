import { randomUUIDv7 } from 'node:crypto';
import { insertAudit, type Actor, type AuditEntry } from './audit.ts';
import type { Db } from './client.ts';
import { appendToOutbox } from './outbox.ts';
import { insertDecisions } from './rollout-decisions.ts';
import { cancelExecutions } from './rollout-endings.ts';
import { revise } from './rollout-revisions.ts';
import type { RolloutState } from './rollout-schema.ts';
import { lockRollout, updateRollout, type RolloutRow } from './rollouts.ts';
import { listWaves, saveWaves, sumVerdicts } from './waves.ts';

/** Whose order it is, and about which rollout. */
export type Order = {
  id: string;
  actor: Actor;
  /** Its lifecycle's id and type, and the signal that wakes it. */
  workflow: { id: string; name: string; poke: string };
};

export type Locked = NonNullable<Awaited<ReturnType<typeof lockRollout>>>;
/** Why an order is not taken, in a sentence. */
export type Refused = { refused: 'conflict' | 'forbidden'; words: string };
/** What became of an order; undefined when there is no such rollout. */
export type Outcome = 'given' | Refused | undefined;

type Entry = Extract<AuditEntry, { action: `rollout.${string}` }>;
/** An entry without its subject. */
type Noted = Entry extends infer One ? (One extends Entry ? Omit<One, 'subject'> : never) : never;

/** What an order changes, and what is written down about it. */
export type Step = {
  change: Partial<RolloutRow>;
  decision: { kind: string; words: string; because?: Record<string, unknown> };
  audit: Noted;
};

/**
 * Gives an order: under the rollout's lock, so that it follows a review or goes before it, and together with its decision,
 * audit entry, event and the poke of the lifecycle. It holds from its commit on. A rollout that had ended gets its
 * lifecycle again. `judge` may refuse, or find (undefined) that all is as it is to be.
 */
export async function giveOrder(
  db: Db,
  { id, actor, workflow }: Order,
  judge: (tx: Db, locked: Locked) => Promise<Step | Refused | undefined>,
): Promise<Outcome> {
  return db.transaction(async (tx) => {
    const locked = await lockRollout(tx, id);
    if (!locked) return undefined;
    const step = await judge(tx, locked);
    if (!step) return 'given';
    if ('refused' in step) return step;
    const { change, decision, audit } = step;
    const { kind, words, because = {} } = decision;
    await updateRollout(tx, id, change);
    await insertDecisions(tx, [{ id: randomUUIDv7(), rolloutId: id, kind, words, sample: { because }, actor }]);
    await insertAudit(tx, actor, { ...audit, subject: `rollout/${id}` });
    const isBack = locked.rollout.finishedAt !== null && change.finishedAt === null;
    const start = { kind: 'start' as const, name: workflow.name, argument: { rolloutId: id } };
    const poke = { kind: 'signal' as const, name: workflow.poke, argument: {} };
    await appendToOutbox(tx, [{ workflowId: workflow.id, ...(isBack ? start : poke) }]);
    return 'given';
  });
}

export const isIn = ({ state }: RolloutRow, ...states: RolloutState[]) => states.includes(state);
export const awaitsApproval = ({ plan, approvedAt }: RolloutRow) => plan.approval && approvedAt === null;
export const conflict = ({ state }: RolloutRow, words: string): Refused => ({
  refused: 'conflict',
  words: `The rollout is ${state}: ${words}.`,
});

/** Begins it, whenever it was to begin. */
export const startRollout = (db: Db, order: Order): Promise<Outcome> =>
  giveOrder(db, order, async (_, { rollout, now }) => {
    if (!isIn(rollout, 'CREATING', 'WAITING_FOR_APPROVAL', 'READY', 'SCHEDULED'))
      return conflict(rollout, 'only one that has not begun is started');
    if (awaitsApproval(rollout)) return conflict(rollout, 'it is started once it is approved');
    return {
      change: { startsAt: now, ...(rollout.state === 'READY' && { state: 'SCHEDULED' as const }) },
      decision: { kind: 'scheduled', words: 'An operator starts it.' },
      audit: { action: 'rollout.started', data: {} },
    };
  });

/** Nobody more is told; who was told goes on. */
export const pauseRollout = (db: Db, order: Order): Promise<Outcome> =>
  giveOrder(db, order, async (_, { rollout }) => {
    if (!isIn(rollout, 'READY', 'SCHEDULED', 'RUNNING'))
      return conflict(rollout, 'only one that runs, or is about to, is paused');
    return {
      change: { state: 'PAUSED', reason: 'operator' },
      decision: { kind: 'paused', words: 'An operator pauses it.' },
      audit: { action: 'rollout.paused', data: {} },
    };
  });

/**
 * Lets it go on: a wave that failed its gate, or waits at it for an operator, passes, and what has failed until now pauses
 * it no more.
 */
export const resumeRollout = (db: Db, order: Order): Promise<Outcome> =>
  giveOrder(db, order, async (tx, { rollout }) => {
    if (rollout.state !== 'PAUSED') return conflict(rollout, 'only one that is paused is resumed');
    if (awaitsApproval(rollout)) return conflict(rollout, 'its plan was changed, and awaits approval');
    const waves = await listWaves(tx, rollout.id);
    const current = waves.find(({ number }) => number === rollout.wave);
    const passes = current && (current.state === 'FAILED' || rollout.reason === 'manual-gate');
    if (passes) await saveWaves(tx, [{ ...current, passedBy: order.actor }]);
    const forgiven = sumVerdicts(waves);
    const passing = passes ? ` Wave ${current.number} passes.` : '';
    return {
      change: { state: rollout.startedAt ? 'RUNNING' : 'READY', reason: null, forgiven },
      decision: {
        kind: 'resumed',
        words: `An operator lets it go on.${passing}`,
        because: { reason: rollout.reason, forgiven },
      },
      audit: { action: 'rollout.resumed', data: passes ? { wave: current.number } : {} },
    };
  });

/** Ends it early. `inProgress` says what becomes of devices that have begun; what the plan says, when nothing is said. */
export const stopRollout = (db: Db, order: Order, inProgress?: 'finish' | 'cancel'): Promise<Outcome> =>
  giveOrder(db, order, async (tx, locked) => {
    const { rollout } = locked;
    const isMore = rollout.state === 'STOPPING' && inProgress === 'cancel' && rollout.plan.stopping === 'queued';
    if (isIn(rollout, 'UNDOING')) return conflict(rollout, 'its devices are on their way back');
    if (rollout.finishedAt || (rollout.state === 'STOPPING' && !isMore))
      return conflict(rollout, 'there is nothing to stop');
    const planned = rollout.plan.stopping;
    const stopping = inProgress === undefined ? planned : inProgress === 'cancel' ? 'all' : 'queued';
    await cancelWaiting(tx, locked, stopping);
    const revised = stopping === planned ? {} : await revise(tx, rollout, { ...rollout.plan, stopping });
    return {
      change: { ...revised, state: 'STOPPING', reason: 'operator' },
      decision: { kind: 'stopping', words: 'An operator stops it.', because: { stopping } },
      audit: { action: 'rollout.stopped', data: { inProgress: stopping === 'all' ? 'cancel' : 'finish' } },
    };
  });

/** Sends every device that runs the release back to what it ran before, also after the rollout has ended. */
export const undoRollout = (db: Db, order: Order): Promise<Outcome> =>
  giveOrder(db, order, async (tx, locked) => {
    const { rollout, release } = locked;
    if (!release) return conflict(rollout, 'its job is no release, so there is nothing to go back to');
    if (!rollout.startedAt) return conflict(rollout, 'nobody was told yet, so nobody has to go back');
    if (!isIn(rollout, 'RUNNING', 'PAUSED', 'STOPPING', 'STOPPED', 'FINISHED'))
      return conflict(rollout, 'it is undone once');
    await cancelWaiting(tx, locked, rollout.plan.stopping);
    return {
      change: { state: 'UNDOING', reason: 'operator', finishedAt: null },
      decision: { kind: 'undoing', words: 'An operator undoes it.' },
      audit: { action: 'rollout.undone', data: {} },
    };
  });

/** At once, and not when a worker comes to it. */
async function cancelWaiting(tx: Db, { rollout, now }: Locked, stopping: 'queued' | 'all'): Promise<void> {
  const statuses = stopping === 'all' ? ['QUEUED', 'IN_PROGRESS'] : ['QUEUED'];
  await cancelExecutions(tx, { rolloutId: rollout.id, at: now, statuses });
}
