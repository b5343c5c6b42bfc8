import { eq, inArray } from 'drizzle-orm';
import type { Db } from './client.ts';
import { jobs } from './rollout-schema.ts';

export type JobRow = typeof jobs.$inferSelect;

export async function findJob(db: Db, id: string): Promise<JobRow | undefined> {
  const [row] = await db.select().from(jobs).where(eq(jobs.id, id));
  return row;
}

export async function insertJobs(db: Db, rows: (typeof jobs.$inferInsert)[]): Promise<void> {
  if (rows.length > 0) await db.insert(jobs).values(rows);
}

/** How long the devices of a rollout may take from now on; who has begun keeps the time that he has. */
export async function updateJobTimers(
  db: Db,
  rolloutId: string,
  timers: Pick<JobRow, 'startWithinSeconds' | 'endWithinSeconds'>,
): Promise<void> {
  await db.update(jobs).set(timers).where(eq(jobs.rolloutId, rolloutId));
}

/** Documents byte by byte as they were given, and of which release they are. */
export async function listDocuments(db: Db, ids: string[]): Promise<Pick<JobRow, 'id' | 'document' | 'releaseId'>[]> {
  const { id, document, releaseId } = jobs;
  return db.select({ id, document, releaseId }).from(jobs).where(inArray(id, ids));
}
