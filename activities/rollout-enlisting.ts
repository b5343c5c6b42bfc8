import { randomUUIDv7 } from 'node:crypto';
import { insertAudit } from '../db/audit.ts';
import type { Db } from '../db/client.ts';
import { deviceFields } from '../db/device-fields.ts';
import { compileFilter, FilterFault } from '../db/filters.ts';
import { insertDecisions } from '../db/rollout-decisions.ts';
import { enlistNewcomers, enlistTargets } from '../db/rollout-enlisting.ts';
import { groupsNamedBy, resolveGroups, targetCondition, type Targets } from '../db/targets.ts';
import { enlistEveryMs, type Locked } from './rollout-review.ts';

/**
 * Enlists the targets in their waves, and leaves the rollout ready, or waiting for its approval. One whose targets cannot
 * be found any more, because a group was deleted meanwhile, is over before it began.
 */
export async function enlist(tx: Db, locked: Locked): Promise<void> {
  const { rollout, at } = locked;
  try {
    await enlistAll(tx, locked);
    rollout.enlistedAt = at;
    // It may have been approved before there was a worker to enlist anybody.
    rollout.state = rollout.plan.approval && !rollout.approvedAt ? 'WAITING_FOR_APPROVAL' : 'READY';
  } catch (error) {
    if (!(error instanceof FilterFault)) throw error;
    Object.assign(rollout, { state: 'STOPPED', reason: 'targets', finishedAt: at });
    const words = `Its targets cannot be found: ${error.message}.`;
    const decision = { kind: 'stopped', words, sample: { because: {} }, actor: 'system/lifecycle' };
    await insertDecisions(tx, [{ id: randomUUIDv7(), rolloutId: rollout.id, ...decision }]);
    const told = { action: 'rollout.decided' as const, subject: `rollout/${rollout.id}` };
    await insertAudit(tx, 'system/lifecycle', { ...told, data: { kind: 'stopped', words } });
  }
}

async function enlistAll(tx: Db, { rollout, waves }: Locked): Promise<void> {
  const { plan, id: rolloutId } = rollout;
  const named = [plan.targets, ...plan.waves.map(({ filter }) => ({ filter }))].flatMap(groupsNamedBy);
  const { groups } = await resolveGroups(tx, [...new Set(named)]);
  const fields = deviceFields(groups);
  const enlisted = await enlistTargets(tx, {
    rolloutId,
    targets: targetCondition(plan.targets, groups),
    waves: plan.waves.map(({ count, percent, filter }) => ({
      count,
      percent,
      ...(filter !== undefined && { filter: compileFilter(filter, fields) }),
    })),
  });
  for (const { wave, devices } of enlisted) {
    const row = waves.find(({ number }) => number === wave);
    if (row) row.targets += devices;
    rollout.targets += devices;
  }
}

/** Of a continuous rollout: enlists devices that came to match since, in the last open wave. Returns how many. */
export async function enlistLater(tx: Db, { rollout, waves, at }: Locked): Promise<number> {
  const { plan, enlistedAt, state, wave } = rollout;
  if (!plan.targets.continuous || state !== 'RUNNING' || wave === 0) return 0;
  if (enlistedAt && at.getTime() - enlistedAt.getTime() < enlistEveryMs) return 0;
  rollout.enlistedAt = at;
  const count = await findNewcomers(tx, rollout.id, plan.targets, wave);
  const open = waves.find(({ number }) => number === wave);
  if (open) open.targets += count;
  return count;
}

/** Nobody joins through a group that is gone. */
async function findNewcomers(tx: Db, rolloutId: string, targets: Targets, wave: number): Promise<number> {
  const { groups, unknown } = await resolveGroups(tx, groupsNamedBy(targets));
  const left = { ...targets, groups: targets.groups?.filter((name) => !unknown.includes(name.toLowerCase())) };
  try {
    return await enlistNewcomers(tx, { rolloutId, targets: targetCondition(left, groups), wave });
  } catch (error) {
    if (error instanceof FilterFault) return 0;
    throw error;
  }
}
