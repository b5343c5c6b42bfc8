import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { probeSchema } from '../db/probes.ts';
import type { Probes } from './health.ts';

type Temporal = {
  withDeadline<Answer>(deadline: Date, ask: () => Promise<Answer>): Promise<Answer>;
  workflowService: { getSystemInfo(request: object): Promise<unknown> };
};

const temporalWithinMs = 1_000;

/**
 * Asks the real parts. Disposing waits for questions to Temporal that are still open: its client repeats them by itself,
 * and ends the process when it does so on a connection that was closed.
 */
export function createProbes(db: Database, temporal: Temporal): Probes & AsyncDisposable {
  const open = new Set<Promise<unknown>>();
  return {
    postgres: async () => void (await db.execute(sql`select 1`)),
    schema: () => probeSchema(db),
    async temporal() {
      const deadline = new Date(Date.now() + temporalWithinMs);
      const question = temporal.withDeadline(deadline, () => temporal.workflowService.getSystemInfo({}));
      open.add(question);
      await question.finally(() => open.delete(question));
    },
    [Symbol.asyncDispose]: async () => void (await Promise.allSettled(open)),
  };
}
