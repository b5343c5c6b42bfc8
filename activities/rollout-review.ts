import { insertAudit } from '../db/audit.ts';
import type { Db } from '../db/client.ts';
import { createIds } from '../db/ids.ts';
import { insertDecisions } from '../db/rollout-decisions.ts';
import { cancelExecutions, closeScheduled } from '../db/rollout-endings.ts';
import { expireExecutions, judgeSoak, judgeTargets, type Judged } from '../db/rollout-judging.ts';
import type { RolloutState } from '../db/rollout-schema.ts';
import { measureUnderWay } from '../db/rollout-standing.ts';
import { lockRollout, updateRollout, type RolloutRow } from '../db/rollouts.ts';
import { listWaves, saveWaves, type WaveRow } from '../db/waves.ts';
import { admit } from './rollout-admission.ts';
import { apply, decide, type Decision, type Standing } from './rollout-decisions.ts';
import { enlistLater } from './rollout-enlisting.ts';
import { sendBack, stoppedStatuses, strand } from './rollout-undo.ts';

export type Locked = NonNullable<Awaited<ReturnType<typeof lockRollout>>> & { at: Date; waves: WaveRow[] };

export type Reviewed = {
  rollout: RolloutRow;
  waves: WaveRow[];
  inFlight: number;
  /** When to look again if nobody pokes; undefined when it has ended. */
  nextAt: Date | undefined;
  at: Date;
  releaseName: string | undefined;
  /** Devices that have something new to do. */
  told: string[];
};

const ended: RolloutState[] = ['STOPPED', 'FINISHED', 'UNDONE', 'APPROVAL_DENIED'];
const closedAtOnce = 5_000;

/**
 * One look at a rollout: ends what is overdue, judges who has ended, decides, and tells the next devices, in one
 * transaction under the rollout's lock. So a decision rests on all that was judged, nobody is told after it, and a
 * repeated review finds nothing left to do.
 */
export async function review(tx: Db, rolloutId: string, clock?: () => Date): Promise<Reviewed | undefined> {
  const row = await lockRollout(tx, rolloutId);
  if (!row) return undefined;
  const locked: Locked = { ...row, at: clock?.() ?? row.now, waves: await listWaves(tx, rolloutId) };
  const { rollout, at, release } = locked;
  const releaseName = release ? `${release.product} ${release.version}` : undefined;
  if (ended.includes(rollout.state)) {
    return { rollout, waves: locked.waves, inFlight: 0, nextAt: undefined, at, releaseName, told: [] };
  }
  const { timers } = rollout.plan;
  const scope = { rolloutId, at };
  await expireExecutions(tx, scope);
  const more = await wind(tx, locked);
  const unaware = await judge(tx, locked);
  if (rollout.state === 'UNDOING' && rollout.sentBackAt !== null) unaware.push(...(await strand(tx, locked)));
  const newcomers = await enlistLater(tx, locked);
  const underWay = await measureUnderWay(tx, { ...scope, verifyWithinSeconds: timers.verifyWithinSeconds });
  const isWound = !more && underWay.parts.length === 0;
  if (rollout.state === 'UNDOING' && rollout.sentBackAt === null && isWound) await sendBack(tx, locked);
  const decisions = decideFor(locked, underWay);
  await record(tx, locked, decisions);
  const stops = decisions.some(({ state }) => state === 'STOPPING' || state === 'UNDOING');
  if (stops) await wind(tx, locked);
  const admission = await admit(tx, locked, underWay);
  await saveWaves(tx, locked.waves);
  const { state, reason, wave, forgiven, rateLeft, rateAt, enlistedAt, sentBackAt, deadlineAt } = rollout;
  const times = { startedAt: rollout.startedAt, finishedAt: rollout.finishedAt };
  const progress = { state, reason, wave, forgiven, rateLeft, rateAt, enlistedAt, sentBackAt, deadlineAt, ...times };
  await updateRollout(tx, rolloutId, { ...progress, targets: rollout.targets + newcomers });

  const again = more || stops || admission.more;
  const soaks = locked.waves.find(({ number }) => number === wave)?.soaksUntil ?? undefined;
  const startBy = admission.told.length > 0 ? new Date(at.getTime() + timers.startWithinSeconds * 1_000) : undefined;
  const waits = [underWay.dueAt, startBy, admission.nextAt, soaks, rollout.startsAt, deadlineAt, enlistAt(rollout)];
  const later = waits.flatMap((wait) => (wait && wait > at ? [wait.getTime()] : []));
  const nextAt = ended.includes(state) ? undefined : again ? at : new Date(Math.min(...later, at.getTime() + dayMs));
  const inFlight = underWay.parts.reduce((sum, part) => sum + part.inFlight, 0) + admission.told.length;
  return { rollout, waves: locked.waves, inFlight, nextAt, at, releaseName, told: [...unaware, ...admission.told] };
}

const dayMs = 86_400_000;

/** When devices that came to match are looked for next. */
export const enlistEveryMs = 30_000;
const enlistAt = ({ plan, state, enlistedAt }: RolloutRow) =>
  plan.targets.continuous && state === 'RUNNING' && enlistedAt
    ? new Date(enlistedAt.getTime() + enlistEveryMs)
    : undefined;

/** Takes back what is not to happen any more. True when there may be more of it. */
async function wind(tx: Db, { rollout, at, waves }: Locked): Promise<boolean> {
  if (rollout.state !== 'STOPPING' && rollout.state !== 'UNDOING') return false;
  await cancelExecutions(tx, { rolloutId: rollout.id, at, statuses: stoppedStatuses(rollout) });
  const closed = await closeScheduled(tx, { rolloutId: rollout.id, at, limit: closedAtOnce });
  for (const { wave, devices } of closed) {
    count(waves, { wave, direction: 'FORWARD', verdict: 'CANCELED', devices });
  }
  return closed.reduce((sum, { devices }) => sum + devices, 0) === closedAtOnce;
}

/** Gives the devices that do not know yet that their execution has ended. */
async function judge(tx: Db, { rollout, at, release, waves }: Locked): Promise<string[]> {
  const { plan, id: rolloutId, wave: number } = rollout;
  const { verifyWithinSeconds } = plan.timers;
  const ready = release ?? undefined;
  const retries =
    rollout.state === 'STOPPING' || rollout.state === 'UNDOING' ? { ...plan.retries, max: 0 } : plan.retries;
  const judged = await judgeTargets(tx, { rolloutId, at, release: ready, verifyWithinSeconds, retries });
  for (const gain of judged) count(waves, gain);
  const unaware = judged.flatMap((gain) => gain.unaware);

  const soaking = waves.find((wave) => wave.number === number && wave.state === 'SOAKING');
  if (!soaking) return unaware;
  const over = soaking.soaksUntil !== null && soaking.soaksUntil <= at && rollout.state === 'RUNNING';
  for (const lost of await judgeSoak(tx, { rolloutId, wave: number, at, release: ready, over })) {
    count(waves, lost);
    count(waves, { ...lost, verdict: 'SUCCEEDED', devices: -lost.devices });
  }
  return unaware;
}

type Gain = Omit<Judged, 'unaware'>;

function count(waves: WaveRow[], { wave: number, direction, verdict, devices }: Gain): void {
  const wave = waves.find((candidate) => candidate.number === number);
  if (!wave) return;
  if (direction === 'FORWARD') {
    wave.verdicts = { ...wave.verdicts, [verdict]: (wave.verdicts[verdict] ?? 0) + devices };
  } else if (verdict !== 'SKIPPED') {
    const undone = verdict === 'SUCCEEDED' ? 'UNDONE' : verdict;
    wave.undoVerdicts = { ...wave.undoVerdicts, [undone]: (wave.undoVerdicts[undone] ?? 0) + devices };
  }
}

type Made = Decision & { standing: Standing };

/** Takes every step that follows, on the rows as they were read; each remembers what it rests on. */
function decideFor(locked: Locked, underWay: Awaited<ReturnType<typeof measureUnderWay>>): Made[] {
  const decisions: Made[] = [];
  let standing = standingOf(locked, underWay);
  for (let decision = decide(standing); decision; decision = decide(standing)) {
    decisions.push({ ...decision, standing });
    enact(locked, decision);
    standing = apply(standing, decision);
  }
  return decisions;
}

function standingOf(
  { rollout, waves, release, at }: Locked,
  { parts }: Awaited<ReturnType<typeof measureUnderWay>>,
): Standing {
  const part = (direction: 'FORWARD' | 'BACK', members: number) => {
    const { inFlight = 0, retrying = 0 } = parts.find((one) => one.direction === direction) ?? {};
    return { inFlight, retrying, scheduled: members - inFlight - retrying };
  };
  const total = (counts: Partial<Record<string, number>>) =>
    Object.values(counts).reduce<number>((sum, n) => sum + (n ?? 0), 0);
  const forward = waves.reduce((sum, { targets, verdicts }) => sum + targets - total(verdicts), 0);
  const back = waves.reduce((sum, { undoTargets, undoVerdicts }) => sum + undoTargets - total(undoVerdicts), 0);
  return {
    nowMs: at.getTime(),
    plan: rollout.plan,
    state: rollout.state,
    wave: rollout.wave,
    waves: waves.map(({ number, state, targets, verdicts, soaksUntil, passedBy }) => ({
      number,
      state,
      targets,
      verdicts,
      ...(soaksUntil && { soaksUntilMs: soaksUntil.getTime() }),
      ...(passedBy !== null && { passedBy }),
    })),
    forgiven: rollout.forgiven,
    forward: part('FORWARD', forward),
    back: part('BACK', back),
    ...(rollout.startsAt && { startsAtMs: rollout.startsAt.getTime() }),
    ...(rollout.deadlineAt && { deadlineAtMs: rollout.deadlineAt.getTime() }),
    releaseRevoked: (release?.revokedAt ?? null) !== null,
    sentBack: rollout.sentBackAt !== null,
  };
}

/** Changes the rows in memory as the decision says; they are written at the end of the review. */
function enact({ rollout, waves, at }: Locked, { state, reason, wave, waveState }: Decision): void {
  if (state) {
    rollout.state = state;
    if (state === 'RUNNING' && !rollout.startedAt) {
      rollout.startedAt = at;
      rollout.deadlineAt = new Date(at.getTime() + rollout.plan.timers.rolloutSeconds * 1_000);
    }
    if (ended.includes(state)) rollout.finishedAt = at;
  }
  if (reason !== undefined) rollout.reason = reason;
  if (wave !== undefined) rollout.wave = wave;
  const changed = waveState && waves.find(({ number }) => number === waveState.number);
  if (!changed || !waveState) return;
  changed.state = waveState.state;
  if (waveState.state === 'RUNNING') changed.openedAt = at;
  if (waveState.soaksUntilMs !== undefined) changed.soaksUntil = new Date(waveState.soaksUntilMs);
  if (waveState.state === 'PASSED' || waveState.state === 'FAILED') changed.endedAt = at;
}

async function record(tx: Db, { rollout }: Locked, decisions: Made[]): Promise<void> {
  if (decisions.length === 0) return;
  const actor = 'system/lifecycle';
  const nextId = createIds(); // in the order in which they were made
  const rows = decisions.map(({ kind, words, sample, standing }) => {
    return { id: nextId(), rolloutId: rollout.id, kind, words, sample: { because: sample, standing }, actor };
  });
  await insertDecisions(tx, rows);
  const subject = `rollout/${rollout.id}`;
  await insertAudit(
    tx,
    actor,
    ...decisions.map(({ kind, words }) => ({ action: 'rollout.decided' as const, subject, data: { kind, words } })),
  );
}
