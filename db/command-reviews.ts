import { and, eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { commands, commandTargets, type CommandStatus } from './schema.ts';

export type CommandReview = { deadlineAt: Date; overdue: boolean; counts: Partial<Record<CommandStatus, number>> };

/** How many targets of the command stand where, and whether its time is over by the database's clock. */
export async function countTargets(db: Db, commandId: string): Promise<CommandReview | undefined> {
  const rows = await db
    .select({
      deadlineAt: commands.deadlineAt,
      overdue: sql<boolean>`${commands.deadlineAt} <= now()`,
      status: commandTargets.status,
      count: sql<number>`count(*)::int`,
    })
    .from(commands)
    .innerJoin(commandTargets, eq(commandTargets.commandId, commands.id))
    .where(eq(commands.id, commandId))
    .groupBy(commands.id, commandTargets.status);
  const [first] = rows;
  if (!first) return undefined;
  const counts = Object.fromEntries(rows.map(({ status, count }) => [status, count]));
  return { deadlineAt: first.deadlineAt, overdue: first.overdue, counts };
}

export async function markFinished(db: Db, commandId: string): Promise<void> {
  await db
    .update(commands)
    .set({ finishedAt: sql`now()` })
    .where(and(eq(commands.id, commandId), sql`${commands.finishedAt} is null`));
}
