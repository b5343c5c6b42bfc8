import { ScheduleNotFoundError, ScheduleOverlapPolicy, type Client } from '@temporalio/client';
import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import { listRotationPolicies, type RotationPolicyRow } from '../db/rotation-policies.ts';
import { createPeriodic, type Periodic } from '../gateway/periodic.ts';
import { rotateExpiring, rotateExpiringId } from '../workflows/rotate-expiring.ts';

export type RotationSchedulesDeps = {
  db: Db;
  temporal: { client: Pick<Client, 'schedule'>; taskQueue: string };
  log: Pick<Logger, 'warn'>;
};

/** Runs that were missed while Temporal was away, or nobody worked, are not made up for: one finds all that is due. */
const catchupWindow = 600_000;

/**
 * Keeps one Temporal Schedule for each rotation policy, as its row says: at the start, and soon after a policy was changed.
 * The rows are the truth, so policies can be changed while Temporal is away.
 */
export function keepSchedules({ db, temporal, log }: RotationSchedulesDeps): Periodic {
  const kept = new Map<string, number>();
  return createPeriodic({
    name: 'keeping the schedules of rotation policies',
    everyMs: 10_000,
    log,
    async work() {
      for (const policy of await listRotationPolicies(db)) {
        const at = policy.updatedAt.getTime();
        if (kept.get(policy.name) === at) continue;
        await putSchedule(temporal, policy);
        kept.set(policy.name, at);
      }
    },
  });
}

/** Of several workers that put it at once, the last stands; they all put the same. */
export async function putSchedule(
  { client, taskQueue }: RotationSchedulesDeps['temporal'],
  { name, everyMinutes, paused }: RotationPolicyRow,
): Promise<void> {
  const workflowId = rotateExpiringId(name);
  const schedule = {
    spec: { intervals: [{ every: everyMinutes * 60_000 }] },
    policies: { overlap: ScheduleOverlapPolicy.SKIP, catchupWindow },
    action: {
      type: 'startWorkflow' as const,
      workflowType: rotateExpiring,
      workflowId,
      taskQueue,
      args: [{ policy: name }] as [{ policy: string }],
    },
  };
  try {
    await client.schedule.getHandle(workflowId).update((found) => ({ ...schedule, state: { ...found.state, paused } }));
  } catch (error) {
    if (!(error instanceof ScheduleNotFoundError)) throw error;
    await client.schedule.create({ ...schedule, scheduleId: workflowId, state: { paused } });
  }
}
