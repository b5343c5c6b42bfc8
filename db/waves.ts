import { asc, eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { waves, type Verdict } from './rollout-schema.ts';

export type WaveRow = typeof waves.$inferSelect;

/** In their order. */
export async function listWaves(db: Db, rolloutId: string): Promise<WaveRow[]> {
  return db.select().from(waves).where(eq(waves.rolloutId, rolloutId)).orderBy(asc(waves.number));
}

/** The devices of all waves by their verdicts. */
export function sumVerdicts(rows: Pick<WaveRow, 'verdicts'>[]): WaveRow['verdicts'] {
  const total: WaveRow['verdicts'] = {};
  for (const { verdicts } of rows) {
    // The entries of a record of verdicts are verdicts.
    for (const [verdict, devices] of Object.entries(verdicts) as [Verdict, number][]) {
      total[verdict] = (total[verdict] ?? 0) + devices;
    }
  }
  return total;
}

/** Writes the waves as they are now, under the lock of their rollout. */
export async function saveWaves(db: Db, rows: WaveRow[]): Promise<void> {
  if (rows.length === 0) return;
  await db
    .insert(waves)
    .values(rows)
    .onConflictDoUpdate({
      target: [waves.rolloutId, waves.number],
      set: {
        state: sql`excluded.state`,
        targets: sql`excluded.targets`,
        verdicts: sql`excluded.verdicts`,
        undoTargets: sql`excluded.undo_targets`,
        undoVerdicts: sql`excluded.undo_verdicts`,
        openedAt: sql`excluded.opened_at`,
        soaksUntil: sql`excluded.soaks_until`,
        passedBy: sql`excluded.passed_by`,
        endedAt: sql`excluded.ended_at`,
      },
    });
}
