import { and, asc, eq, gt, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { rolloutDecisions } from './rollout-schema.ts';

export type DecisionRow = typeof rolloutDecisions.$inferSelect;

/** Writes decisions down, each with its event. */
export async function insertDecisions(db: Db, rows: Omit<DecisionRow, 'at'>[]): Promise<void> {
  await db.insert(rolloutDecisions).values(rows);
  const column = <Value>(read: (row: Omit<DecisionRow, 'at'>) => Value) => sql.param(rows.map(read));
  await db.execute(sql`
    insert into events (id, kind, subject, data)
    select uuid_now(), 'rollout.' || kind, 'rollout/' || rollout_id,
      jsonb_build_object('rolloutId', rollout_id, 'decisionId', id, 'words', words)
    from unnest(${column(({ id }) => id)}::uuid[], ${column(({ rolloutId }) => rolloutId)}::uuid[],
      ${column(({ kind }) => kind)}::text[], ${column(({ words }) => words)}::text[]) as d (id, rollout_id, kind, words)`);
}

/** In the order in which they were made. */
export async function listDecisions(
  db: Db,
  rolloutId: string,
  { after, limit }: { after?: [id: string] | undefined; limit: number },
): Promise<DecisionRow[]> {
  return db
    .select()
    .from(rolloutDecisions)
    .where(and(eq(rolloutDecisions.rolloutId, rolloutId), after && gt(rolloutDecisions.id, after[0])))
    .orderBy(asc(rolloutDecisions.id))
    .limit(limit);
}
