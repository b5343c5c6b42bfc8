import type { Database } from '../../db/client.ts';

/** A decision of a rollout and when it was committed, in milliseconds since 1970 with their fractions. */
export type Made = { rolloutId: string; kind: string; atMs: number };

export type Decisions = {
  of(rolloutId: string): Made[];
  /** Resolves with the decision of that kind that follows so many others of the kind. */
  next(rolloutId: string, kind: string, after?: number): Promise<Made>;
};

const channel = 'bench_decisions';
const withinMs = 600_000;

/**
 * Hears of every decision as it is committed: Postgres sends what a transaction notifies of when it commits, and not
 * before. The trigger is there for the measurement only.
 */
export async function watchDecisions({ $client: client }: Database): Promise<Decisions> {
  await client.unsafe(`
    create or replace function bench_tell_decision() returns trigger language plpgsql as $$ begin
      perform pg_notify('${channel}', json_build_array(new.rollout_id, new.kind, new.id)::text);
      return null;
    end $$;
    create or replace trigger bench_tell_decision after insert on rollout_decisions
      for each row execute function bench_tell_decision()`);
  const made: Made[] = [];
  const waiting = new Set<() => void>();
  await client.listen(channel, (payload) => {
    const atMs = performance.timeOrigin + performance.now();
    // What the trigger sends.
    const [rolloutId, kind] = JSON.parse(payload) as [string, string];
    made.push({ rolloutId, kind, atMs });
    for (const look of waiting) look();
  });
  return {
    of: (rolloutId) => made.filter((one) => one.rolloutId === rolloutId),
    next(rolloutId, kind, after = 0) {
      const { promise, resolve, reject } = Promise.withResolvers<Made>();
      const timer = setTimeout(() => reject(new Error(`the rollout decided nothing of kind ${kind}`)), withinMs);
      const look = () => {
        const [found] = made.filter((one) => one.rolloutId === rolloutId && one.kind === kind).slice(after);
        if (!found) return;
        clearTimeout(timer);
        waiting.delete(look);
        resolve(found);
      };
      waiting.add(look);
      look();
      return promise;
    },
  };
}
