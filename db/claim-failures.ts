import { inArray, lt, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { claimFailures } from './enrolment-schema.ts';

/** How often each of these was at fault within the window, in their order. */
export async function countClaimFailures(db: Db, subjects: string[], windowMs: number): Promise<number[]> {
  const recent = sql`${claimFailures.since} > now() - make_interval(secs => ${windowMs / 1_000})`;
  const rows = await db
    .select({
      subject: claimFailures.subject,
      failures: sql<number>`case when ${recent} then ${claimFailures.failures} else 0 end`,
    })
    .from(claimFailures)
    .where(inArray(claimFailures.subject, subjects));
  const found = new Map(rows.map(({ subject, failures }) => [subject, failures]));
  return subjects.map((subject) => found.get(subject) ?? 0);
}

/** Counts a fault of each, in a window that begins with the first. */
export async function noteClaimFailures(
  db: Db,
  subjects: string[],
  { windowMs, by }: { windowMs: number; by: number },
): Promise<void> {
  // In the order of their keys, so that two at once never wait for each other.
  const rows = subjects.toSorted().map((subject) => ({ subject, failures: by }));
  const isOver = sql`${claimFailures.since} <= now() - make_interval(secs => ${windowMs / 1_000})`;
  await db
    .insert(claimFailures)
    .values(rows)
    .onConflictDoUpdate({
      target: claimFailures.subject,
      set: {
        failures: sql`case when ${isOver} then 0 else ${claimFailures.failures} end + excluded.failures`,
        since: sql`case when ${isOver} then now() else ${claimFailures.since} end`,
      },
    });
}

/** No window is as long as a day. */
export async function deleteOldClaimFailures(db: Db): Promise<void> {
  await db.delete(claimFailures).where(lt(claimFailures.since, sql`now() - interval '1 day'`));
}
