import type { Consequence, FailureKind, Gate, Limit, RolloutPlan } from '../db/rollout-plan.ts';
import type { RolloutState, Verdict } from '../db/rollout-schema.ts';

export type Verdicts = Partial<Record<Verdict, number>>;

export type Wave = {
  number: number;
  state: 'WAITING' | 'RUNNING' | 'SOAKING' | 'PASSED' | 'FAILED';
  targets: number;
  /** Of devices, not of attempts. */
  verdicts: Verdicts;
  soaksUntilMs?: number | undefined;
  /** The operator who let it pass. */
  passedBy?: string | undefined;
};

/** Where a rollout stands, as its rows say: all that a decision may rest on, in a form that JSON keeps. */
export type Standing = {
  nowMs: number;
  plan: RolloutPlan;
  state: RolloutState;
  /** The wave that devices are admitted from; 0 before the first. */
  wave: number;
  waves: Wave[];
  /** Verdicts that stood when an operator let it go on: what pauses counts what came after. */
  forgiven: Verdicts;
  /** Devices on their way to the new release or job, those that wait for another attempt, and those not told yet. */
  forward: { inFlight: number; retrying: number; scheduled: number };
  /** The same for those that go back. */
  back: { inFlight: number; retrying: number; scheduled: number };
  startsAtMs?: number | undefined;
  deadlineAtMs?: number | undefined;
  releaseRevoked: boolean;
  /** Whether those that go back have been found. */
  sentBack: boolean;
};

/** One step: what changes, and why in words, with the sample that it rests on. */
export type Decision = {
  kind: string;
  words: string;
  sample: Record<string, unknown>;
  state?: RolloutState;
  reason?: string | null;
  wave?: number;
  waveState?: { number: number; state: Wave['state']; soaksUntilMs?: number };
};

/** The next step that follows from where it stands; undefined when it is to wait. Deterministic, so it can be replayed. */
export function decide(standing: Standing): Decision | undefined {
  const { state } = standing;
  if (state === 'READY' || state === 'SCHEDULED' || state === 'WAITING_FOR_APPROVAL') return begin(standing);
  if (state === 'RUNNING' || state === 'PAUSED')
    return halt(standing) ?? (state === 'RUNNING' ? go(standing) : undefined);
  const { forward, back, sentBack } = standing;
  if (state === 'STOPPING' && isEmpty(forward)) {
    return { kind: 'stopped', words: 'Nobody is in flight any more.', sample: {}, state: 'STOPPED' };
  }
  if (state === 'UNDOING' && sentBack && isEmpty(forward) && isEmpty(back)) {
    return { kind: 'undone', words: 'Every device that was to go back has its verdict.', sample: {}, state: 'UNDONE' };
  }
  return undefined;
}

/** Where it stands after the step. */
export function apply(standing: Standing, { state, wave, waveState }: Decision): Standing {
  return {
    ...standing,
    ...(state && { state }),
    ...(wave !== undefined && { wave }),
    ...(waveState && {
      waves: standing.waves.map((one) => (one.number === waveState.number ? { ...one, ...waveState } : one)),
    }),
  };
}

function begin({ state, plan, nowMs, startsAtMs, deadlineAtMs, releaseRevoked }: Standing): Decision | undefined {
  if (releaseRevoked) return stop('release-revoked', 'The release was revoked before it began.', {});
  if (isOver(deadlineAtMs, nowMs)) return stop('deadline', 'It was not begun in time.', { deadlineAtMs });
  // An operator who starts it says since when.
  if (state === 'WAITING_FOR_APPROVAL' || (plan.start === 'manual' && startsAtMs === undefined)) return undefined;
  if (startsAtMs !== undefined && nowMs < startsAtMs) {
    if (state === 'SCHEDULED') return undefined;
    const words = `It begins at ${instantOf(startsAtMs)}.`;
    return { kind: 'scheduled', words, sample: { startsAtMs }, state: 'SCHEDULED' };
  }
  return { kind: 'started', words: 'It begins.', sample: {}, state: 'RUNNING', reason: null };
}

/** What ends or holds a rollout, whatever its waves do. */
function halt(standing: Standing): Decision | undefined {
  const { plan, nowMs, deadlineAtMs, releaseRevoked, state } = standing;
  if (releaseRevoked) return stop('release-revoked', 'The release was revoked.', {});
  if (isOver(deadlineAtMs, nowMs)) return stop('deadline', 'Its time is over.', { deadlineAtMs });
  const judged = sumOf(standing.waves);
  for (const limit of plan.limits) {
    const broken = breach(limit, limit.then === 'pause' ? without(judged, standing.forgiven) : judged);
    if (broken && !(state === 'PAUSED' && limit.then === 'pause')) {
      return follow(limit.then, 'limit', broken.words, { limit, ...broken.sample });
    }
  }
  return undefined;
}

function go(standing: Standing): Decision | undefined {
  const { plan, waves, wave, forward } = standing;
  const current = waves.find(({ number }) => number === wave);
  if (!current || current.state === 'PASSED') {
    const next = waves.find(({ number }) => number === wave + 1);
    if (next) {
      const words = `Wave ${next.number} of ${waves.length} begins, with ${counted(next.targets)}.`;
      const waveState = { number: next.number, state: 'RUNNING' as const };
      return { kind: 'wave-opened', words, sample: { targets: next.targets }, wave: next.number, waveState };
    }
    if (plan.targets.continuous || !isEmpty(forward)) return undefined;
    return { kind: 'finished', words: 'Every device has its verdict.', sample: sumOf(waves), state: 'FINISHED' };
  }
  return judgeGate(standing, current, { ...plan.gate, ...plan.waves[current.number - 1]?.gate });
}

function judgeGate({ nowMs }: Standing, wave: Wave, gate: Gate): Decision | undefined {
  const { number, state, passedBy, soaksUntilMs } = wave;
  if (passedBy !== undefined) return pass(wave, `Wave ${number} is let pass by ${passedBy}.`, { passedBy });
  const share = shareOf(wave, gate);
  const said = `${share.succeeded} of ${share.counted} succeeded where ${share.needed} are needed (${gate.succeededPercent} %)`;
  if (share.succeeded + share.open < share.needed) {
    const failed = follow(gate.otherwise, 'gate', `Wave ${number}: ${said}, which can no longer be reached.`, share);
    return { ...failed, waveState: { number, state: 'FAILED' } };
  }
  if (share.succeeded < share.needed) return undefined;
  if (state === 'RUNNING' && gate.soakSeconds > 0 && share.counted > 0) {
    const untilMs = nowMs + gate.soakSeconds * 1_000;
    const words = `Wave ${number}: ${said}. It soaks until ${instantOf(untilMs)}.`;
    const waveState = { number, state: 'SOAKING' as const, soaksUntilMs: untilMs };
    return { kind: 'wave-soaking', words, sample: share, waveState };
  }
  if (state === 'SOAKING' && soaksUntilMs !== undefined && !isOver(soaksUntilMs, nowMs)) return undefined;
  if (!gate.manual) return pass(wave, `Wave ${number}: ${said}.`, share);
  const words = `Wave ${number}: ${said}. It waits for an operator.`;
  return { kind: 'paused', words, sample: share, state: 'PAUSED', reason: 'manual-gate' };
}

const pass = ({ number }: Wave, words: string, sample: Record<string, unknown>): Decision => ({
  kind: 'wave-passed',
  words,
  sample,
  waveState: { number, state: 'PASSED' },
});

/** Devices that the job does not fit are left out of the sum; silent ones are not. */
export function shareOf({ targets, verdicts }: Wave, { succeededPercent }: Pick<Gate, 'succeededPercent'>) {
  const counted = targets - (verdicts.SKIPPED ?? 0);
  const succeeded = verdicts.SUCCEEDED ?? 0;
  const open = targets - sum(verdicts);
  // In hundredths of a percent, so that 99.9 % of 1,000 is 999 and not one more.
  const needed = Math.ceil((counted * Math.round(succeededPercent * 100)) / 10_000);
  return { counted, succeeded, open, needed };
}

const kinds: Record<FailureKind, Verdict[]> = {
  FAILED: ['FAILED', 'REVERTED'],
  TIMED_OUT: ['TIMED_OUT', 'SILENT'],
  REJECTED: ['REJECTED'],
};

function breach({ kind, count, percent, judgedMin }: Limit, judged: Verdicts) {
  const wanted: Verdict[] = kind === 'ANY' ? Object.values(kinds).flat() : kinds[kind];
  const total = sum(judged) - (judged.SKIPPED ?? 0) - (judged.CANCELED ?? 0);
  const failed = wanted.reduce((devices, verdict) => devices + (judged[verdict] ?? 0), 0);
  const called = kind === 'ANY' ? 'failed, timed out or rejected it' : `ended ${kind}`;
  const sample = { failed, judged: total };
  if (count !== undefined && failed >= count)
    return { words: `${counted(failed)} ${called}; the limit is ${count}.`, sample };
  if (percent === undefined || total < judgedMin || failed === 0 || failed * 100 < percent * total) return undefined;
  const words = `${failed} of ${total} judged devices ${called}, ${((failed * 100) / total).toFixed(1)} %; the limit is ${percent} %.`;
  return { words, sample };
}

function without(judged: Verdicts, forgiven: Verdicts): Verdicts {
  // The entries of a record of verdicts are verdicts.
  const entries = Object.entries(judged) as [Verdict, number][];
  return Object.fromEntries(
    entries.map(([verdict, count]) => [verdict, Math.max(0, count - (forgiven[verdict] ?? 0))]),
  );
}

export function sumOf(waves: Pick<Wave, 'verdicts'>[]): Verdicts {
  const total: Verdicts = {};
  for (const { verdicts } of waves) {
    // The entries of a record of verdicts are verdicts.
    for (const [verdict, count] of Object.entries(verdicts) as [Verdict, number][]) {
      total[verdict] = (total[verdict] ?? 0) + count;
    }
  }
  return total;
}

const counted = (devices: number) => (devices === 1 ? '1 device' : `${devices} devices`);
const isOver = (limitMs: number | undefined, nowMs: number) => limitMs !== undefined && nowMs >= limitMs;
const instantOf = (ms: number) => new Date(ms).toISOString();
const sum = (verdicts: Verdicts) => Object.values(verdicts).reduce((total, count) => total + count, 0);
const isEmpty = (part: Standing['forward']) => part.inFlight + part.retrying + part.scheduled === 0;

function follow(consequence: Consequence, reason: string, words: string, sample: Record<string, unknown>): Decision {
  if (consequence === 'pause') return { kind: 'paused', words, sample, state: 'PAUSED', reason };
  if (consequence === 'stop') return stop(reason, words, sample);
  return { kind: 'undoing', words, sample, state: 'UNDOING', reason };
}

const stop = (reason: string, words: string, sample: Record<string, unknown>): Decision => ({
  kind: 'stopping',
  words,
  sample,
  state: 'STOPPING',
  reason,
});
