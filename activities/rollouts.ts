import { lockRollout, updateRollout } from '../db/rollouts.ts';
import { listWaves, saveWaves } from '../db/waves.ts';
import type { Deps } from './deps.ts';
import { enlist } from './rollout-enlisting.ts';
import { review, type Reviewed } from './rollout-review.ts';
import { sumOf } from './rollout-decisions.ts';

export type RolloutReview = {
  /** Milliseconds until it is to be looked at again if nobody pokes; undefined when it has ended. */
  waitMs: number | undefined;
  status: string;
  wave: string;
  release: string | null;
  pauseReason: string | null;
  /** The wave table, for people. */
  details: string;
  waitingFor: string;
};

export const rolloutActivities = ({ db, wire, clock }: Pick<Deps, 'db' | 'wire' | 'clock'>) => ({
  /**
   * Enlists the targets of a new rollout. Repeating it is safe: a rollout that is enlisted is left as it is, and one whose
   * enlisting broke off has nothing.
   */
  async enlistRollout({ rolloutId }: { rolloutId: string }): Promise<void> {
    await db.transaction(async (tx) => {
      const row = await lockRollout(tx, rolloutId);
      if (row?.rollout.state !== 'CREATING') return;
      const locked = { ...row, at: clock?.() ?? row.now, waves: await listWaves(tx, rolloutId) };
      await enlist(tx, locked);
      await saveWaves(tx, locked.waves);
      const { state, reason, targets, enlistedAt, finishedAt } = locked.rollout;
      await updateRollout(tx, rolloutId, { state, reason, targets, enlistedAt, finishedAt });
    });
  },

  /**
   * Looks at the whole rollout once, in one transaction, and tells the devices' gateways afterwards. Repeating it is safe:
   * everything that it does follows from the rows, and what is done is no longer there to do. A hint that is lost is found
   * by the gateways' sweep.
   */
  async reviewRollout({ rolloutId }: { rolloutId: string }): Promise<RolloutReview> {
    const reviewed = await db.transaction((tx) => review(tx, rolloutId, clock));
    if (!reviewed) return gone;
    if (reviewed.told.length > 0) wire.tell({ orders: reviewed.told });
    return present(reviewed);
  },
});

const gone: RolloutReview = {
  waitMs: undefined,
  status: 'GONE',
  wave: '0',
  release: null,
  pauseReason: null,
  details: 'The rollout is gone.',
  waitingFor: '',
};

function present({ rollout, waves, inFlight, nextAt, at, releaseName }: Reviewed): RolloutReview {
  const { state, reason, wave } = rollout;
  const rows = waves.map(({ number, state: waveState, targets, verdicts, undoTargets, undoVerdicts }) => {
    const bad = Object.entries(verdicts).filter(([verdict, count]) => verdict !== 'SUCCEEDED' && count > 0);
    const others = bad.map(([verdict, count]) => `${count} ${verdict}`).join(', ');
    const back = undoTargets > 0 ? `${undoVerdicts.UNDONE ?? 0} of ${undoTargets}` : '';
    return `| ${number} | ${waveState} | ${targets} | ${verdicts.SUCCEEDED ?? 0} | ${others} | ${back} |`;
  });
  const heading = [state, reason && `(${reason})`, releaseName && `of ${releaseName}`].filter(Boolean).join(' ');
  const open = rollout.targets - Object.values(sumOf(waves)).reduce((sum, count) => sum + count, 0);
  const details = [
    `**${rollout.name}**: ${heading}. ${inFlight} in flight, ${open} of ${rollout.targets} without a verdict.`,
    ...(nextAt ? [`Next deadline: ${nextAt.toISOString()}.`] : []),
    '',
    '| wave | state | devices | succeeded | others | went back |',
    '|---|---|---|---|---|---|',
    ...rows,
  ];
  return {
    waitMs: nextAt && Math.max(0, nextAt.getTime() - at.getTime()),
    status: state,
    wave: `${wave} of ${waves.length}`,
    release: releaseName ?? null,
    pauseReason: state === 'PAUSED' ? reason : null,
    details: details.join('\n'),
    waitingFor: waits[state] ?? `${inFlight} in flight`,
  };
}

const waits: Partial<Record<string, string>> = {
  WAITING_FOR_APPROVAL: 'approval',
  READY: 'an operator to start it',
  SCHEDULED: 'its time',
  PAUSED: 'an operator to resume it',
};
