import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { awaitsApproval, conflict, giveOrder, isIn, type Order, type Outcome } from './rollout-orders.ts';
import type { FailureKind } from './rollout-plan.ts';
import type { Verdict } from './rollout-schema.ts';
import { listWaves, saveWaves, sumVerdicts, type WaveRow } from './waves.ts';

/** A silent device has done what it was told: another attempt would find nothing to do. */
const verdictsOf: Record<FailureKind, Verdict[]> = {
  FAILED: ['FAILED', 'REVERTED'],
  TIMED_OUT: ['TIMED_OUT'],
  REJECTED: ['REJECTED'],
};

/**
 * Gives devices that failed another attempt, under the same plan. Their verdicts are taken back, so gates and limits judge
 * them anew; a rollout that has ended runs again, for as long as it was given the first time.
 */
export const retryRollout = (db: Db, order: Order, kinds: FailureKind[]): Promise<Outcome> =>
  giveOrder(db, order, async (tx, { rollout, release, now }) => {
    if (!rollout.startedAt || !isIn(rollout, 'RUNNING', 'PAUSED', 'STOPPED', 'FINISHED')) {
      return conflict(rollout, 'only one that runs, is paused, has finished or was stopped is retried');
    }
    if (awaitsApproval(rollout)) return conflict(rollout, 'its plan was changed, and awaits approval');
    if (release?.revokedAt) return conflict(rollout, 'its release is revoked');
    const taken = await scheduleAgain(
      tx,
      rollout.id,
      kinds.flatMap((kind) => verdictsOf[kind]),
    );
    const devices = taken.reduce((sum, row) => sum + row.devices, 0);
    if (devices === 0) return conflict(rollout, `no device of it ended ${kinds.join(', ')}`);
    const waves = (await listWaves(tx, rollout.id)).map((wave) => reopen(takeBack(wave, taken), rollout.wave));
    await saveWaves(tx, waves);
    const left = sumVerdicts(waves);
    // The entries of a record of verdicts are verdicts.
    const forgiven = Object.entries(rollout.forgiven) as [Verdict, number][];
    const again = { state: 'RUNNING' as const, reason: null, finishedAt: null };
    const deadlineAt = new Date(now.getTime() + rollout.plan.timers.rolloutSeconds * 1_000);
    return {
      change: {
        forgiven: Object.fromEntries(
          forgiven.map(([verdict, count]) => [verdict, Math.min(count, left[verdict] ?? 0)]),
        ),
        ...(rollout.finishedAt && { ...again, deadlineAt }),
      },
      decision: {
        kind: 'retried',
        words: `An operator gives ${devices} devices another attempt.`,
        because: { kinds, taken },
      },
      audit: { action: 'rollout.retried', data: { devices, kinds } },
    };
  });

type Taken = { wave: number; verdict: Verdict; devices: number };

/** Devices on their way back stay there. */
async function scheduleAgain(db: Db, rolloutId: string, verdicts: Verdict[]): Promise<Taken[]> {
  const rows = await db.execute<Taken>(sql`
    with failed as materialized (
      select rollout_id, device_id, wave, verdict from rollout_targets
      where rollout_id = ${rolloutId}::uuid and state = 'DONE' and direction = 'FORWARD'
        and verdict = any (${sql.param(verdicts)}::text[])
      order by device_id for update
    ), scheduled as (
      update rollout_targets t set state = 'SCHEDULED', verdict = null, reason = null, judged_at = null
      from failed f where t.rollout_id = f.rollout_id and t.device_id = f.device_id
    )
    select wave, verdict, count(*)::int as devices from failed group by wave, verdict order by wave, verdict`);
  return [...rows];
}

function takeBack(wave: WaveRow, taken: Taken[]): WaveRow {
  const verdicts = { ...wave.verdicts };
  for (const { verdict, devices } of taken.filter((row) => row.wave === wave.number)) {
    verdicts[verdict] = Math.max(0, (verdicts[verdict] ?? 0) - devices);
  }
  return { ...wave, verdicts };
}

/** The gate that the current wave has failed is open again; those that were passed stay passed. */
const reopen = (wave: WaveRow, current: number): WaveRow =>
  wave.number === current && wave.state === 'FAILED'
    ? { ...wave, state: 'RUNNING', soaksUntil: null, passedBy: null, endedAt: null }
    : wave;
