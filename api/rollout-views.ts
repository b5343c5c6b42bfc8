import { z } from '@hono/zod-openapi';
import type { Db } from '../db/client.ts';
import { rolloutStates } from '../db/rollout-schema.ts';
import { countInFlight, findRollout, type WholeRollout } from '../db/rollouts.ts';
import { listWaves, type WaveRow } from '../db/waves.ts';
import { runRolloutId } from '../workflows/run-rollout.ts';
import { lifecycleOf } from './lifecycles.ts';
import { releasePlan } from './rollout-plans.ts';
import * as schemas from './schemas.ts';

const state = z.enum(rolloutStates).openapi('RolloutState');

const failed = ['FAILED', 'TIMED_OUT', 'REJECTED', 'CANCELED', 'REMOVED', 'REVERTED', 'SILENT'] as const;
export const verdict = z.enum(['SUCCEEDED', 'SKIPPED', ...failed]).openapi('Verdict');
export const undoVerdict = z.enum(['UNDONE', 'CANNOT_UNDO', ...failed]).openapi('UndoVerdict');

export const rollout = z
  .object({
    id: schemas.uuid,
    name: z.string(),
    state,
    reason: z.string().nullable().openapi({
      description:
        'Why it is paused, stopped or undone, in a word: gate, manual-gate, limit, operator, approval, deadline, release-revoked',
    }),
    release: z.object({ id: schemas.uuid, product: z.string(), version: z.string() }).nullable(),
    jobId: schemas.uuid.openapi({ description: 'What devices call it' }),
    wave: z.int().openapi({ description: 'The one that devices are told from; 0 before the first' }),
    targets: z.int(),
    counts: z
      .partialRecord(verdict, z.int())
      .openapi({ description: 'Devices by their verdicts; the others have none yet' }),
    priority: z.int(),
    revision: z.int(),
    planHash: z
      .string()
      .openapi({ description: 'SHA-256 of what was asked, in hexadecimal digits: what an approval is of' }),
    createdBy: z.string(),
    createdAt: schemas.instant,
    approvedBy: z.string().nullable(),
    approvedAt: schemas.instant.nullable(),
    startsAt: schemas.instant.nullable(),
    deadlineAt: schemas.instant.nullable(),
    startedAt: schemas.instant.nullable(),
    finishedAt: schemas.instant.nullable(),
    updatedAt: schemas.instant,
    lifecycle: schemas.lifecycle,
  })
  .openapi('Rollout');

const wave = z.object({
  number: z.int(),
  state: z.enum(['WAITING', 'RUNNING', 'SOAKING', 'PASSED', 'FAILED']),
  targets: z.int(),
  counts: z.partialRecord(verdict, z.int()),
  undoTargets: z.int(),
  undoCounts: z.partialRecord(undoVerdict, z.int()),
  openedAt: schemas.instant.nullable(),
  soaksUntil: schemas.instant.nullable(),
  passedBy: z.string().nullable().openapi({ description: 'The operator who let it pass' }),
  endedAt: schemas.instant.nullable(),
});

export const wholeRollout = rollout
  .extend({ plan: z.object(releasePlan), inFlight: z.int(), waves: z.array(wave) })
  .openapi('RolloutWithWaves');

/** Rollouts as operators are shown them. */
export function createRolloutViews(temporal: { temporalUiUrl: string; namespace: string }) {
  const present = ({ rollout: row, release, verdicts }: WholeRollout) => ({
    id: row.id,
    name: row.name,
    state: row.state,
    reason: row.reason,
    release,
    jobId: row.jobId,
    wave: row.wave,
    targets: row.targets,
    counts: verdicts,
    priority: row.priority,
    revision: row.revision,
    planHash: Buffer.from(row.planHash).toString('hex'),
    createdBy: row.createdBy,
    createdAt: row.createdAt.toISOString(),
    approvedBy: row.approvedBy,
    approvedAt: textOf(row.approvedAt),
    startsAt: textOf(row.startsAt),
    deadlineAt: textOf(row.deadlineAt),
    startedAt: textOf(row.startedAt),
    finishedAt: textOf(row.finishedAt),
    updatedAt: row.updatedAt.toISOString(),
    lifecycle: lifecycleOf(temporal, runRolloutId(row.id)),
  });
  return {
    present,
    /** One rollout as it is now; throws the problem when there is none. */
    async show(db: Db, id: string) {
      const row = await findRollout(db, id);
      if (!row) throw schemas.notFound();
      const waves = (await listWaves(db, id)).map(presentWave);
      return { ...present(row), plan: row.rollout.plan, inFlight: await countInFlight(db, id), waves };
    },
  };
}

const presentWave = (row: WaveRow) => ({
  number: row.number,
  state: row.state,
  targets: row.targets,
  counts: row.verdicts,
  undoTargets: row.undoTargets,
  undoCounts: row.undoVerdicts,
  openedAt: textOf(row.openedAt),
  soaksUntil: textOf(row.soaksUntil),
  passedBy: row.passedBy,
  endedAt: textOf(row.endedAt),
});

const textOf = (instant: Date | null) => instant?.toISOString() ?? null;
