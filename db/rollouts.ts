import { and, desc, eq, lt, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { instant, text, uuidField, word, type Fields, type Page } from './fields.ts';
import { releases, rollouts, rolloutStates, rolloutTargets, type Verdict } from './rollout-schema.ts';

export type RolloutRow = typeof rollouts.$inferSelect;
export type RolloutRelease = Pick<
  typeof releases.$inferSelect,
  'product' | 'version' | 'securityCounter' | 'hardware' | 'allowedFrom' | 'downgrade' | 'revokedAt'
>;

/**
 * The rollout with its release and the time by the database's clock. Its row stays locked to the end of the
 * transaction: reviews and operators' changes of one rollout follow one another.
 */
export async function lockRollout(db: Db, id: string) {
  const { product, version, securityCounter, hardware, allowedFrom, downgrade, revokedAt } = releases;
  const [row] = await db
    .select({
      rollout: rollouts,
      now: sql<Date>`now()`.mapWith(rollouts.createdAt),
      release: { product, version, securityCounter, hardware, allowedFrom, downgrade, revokedAt },
    })
    .from(rollouts)
    .leftJoin(releases, eq(releases.id, rollouts.releaseId))
    .where(eq(rollouts.id, id))
    .for('update', { of: rollouts });
  return row;
}

/** What the lifecycle or an operator changed. */
export async function updateRollout(db: Db, id: string, change: Partial<RolloutRow>): Promise<void> {
  await db
    .update(rollouts)
    .set({ ...change, updatedAt: sql`now()` })
    .where(eq(rollouts.id, id));
}

/** What GET /rollouts may be filtered by. */
export const rolloutFields: Fields = {
  name: text(rollouts.name),
  state: word(rollouts.state, rolloutStates),
  release: uuidField(rollouts.releaseId),
  createdBy: text(rollouts.createdBy),
  createdAt: instant(rollouts.createdAt, { id: rollouts.id }),
};

/** With what it is of, and its devices' verdicts, those of all waves together. */
export type WholeRollout = Awaited<ReturnType<typeof selectRollouts>>[number];

const selectRollouts = (db: Db) =>
  db
    .select({
      rollout: rollouts,
      release: { id: releases.id, product: releases.product, version: releases.version },
      verdicts: sql<Partial<Record<Verdict, number>>>`(
        select coalesce(jsonb_object_agg(v.verdict, v.devices), '{}') from (
          select j.key as verdict, sum(j.value::int) as devices
          from waves w cross join lateral jsonb_each_text(w.verdicts) j
          where w.rollout_id = ${rollouts.id} group by j.key) v)`,
    })
    .from(rollouts)
    .leftJoin(releases, eq(releases.id, rollouts.releaseId));

/** The youngest first. */
export async function listRollouts(db: Db, { filter, after, limit }: Page<[id: string]>): Promise<WholeRollout[]> {
  return selectRollouts(db)
    .where(and(filter, after && lt(rollouts.id, after[0])))
    .orderBy(desc(rollouts.id))
    .limit(limit);
}

export async function findRollout(db: Db, id: string): Promise<WholeRollout | undefined> {
  const [row] = await selectRollouts(db).where(eq(rollouts.id, id));
  return row;
}

/** Devices that were told and have no verdict yet. */
export async function countInFlight(db: Db, id: string): Promise<number> {
  return db.$count(rolloutTargets, and(eq(rolloutTargets.rolloutId, id), eq(rolloutTargets.state, 'IN_FLIGHT')));
}
