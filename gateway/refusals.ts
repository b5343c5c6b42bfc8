import type { Logger } from 'pino';
import { insertAudit, type AuditEntry } from '../db/audit.ts';
import type { Db } from '../db/client.ts';
import { createBuckets } from './throttle.ts';

export type RefusalLog = {
  /** Keeps that somebody was told no; of one actor only so many a minute, and the rest is counted. */
  record(actor: string, entry: AuditEntry): void;
  /** The same, written before it resolves: whoever is answered no finds it in the audit. It never fails. */
  recordNow(actor: string, entry: AuditEntry): Promise<void>;
  stop(): Promise<void>;
};

type Entry = { actor: string; entry: AuditEntry };

const everyMs = 1_000;
const waitingMax = 1_000;

/**
 * The audit of refusals. What is merely denied is written beside the denial; what is answered, before the answer. A
 * hostile device fills neither the table nor the memory.
 */
export function createRefusalLog(deps: {
  db: Db;
  log: Pick<Logger, 'warn'>;
  /** Refusals that were not written. */
  suppressed: () => void;
  perMinute?: number;
  /** Answers of one actor: a factory line's devices share one claim, and each may be told no. */
  answersPerSecond?: number;
}): RefusalLog {
  const { db, log, suppressed, perMinute = 6, answersPerSecond = 1 } = deps;
  const actors = createBuckets(perMinute / 60, { burst: perMinute });
  const answered = createBuckets(answersPerSecond, { burst: 600 * answersPerSecond });
  let waiting: Entry[] = [];
  let writing: Promise<void> = Promise.resolve();

  async function flush(): Promise<void> {
    const entries = waiting;
    waiting = [];
    if (entries.length === 0) return;
    try {
      const byActor = Map.groupBy(entries, ({ actor }) => actor);
      await Promise.all([...byActor].map(([actor, own]) => insertAudit(db, actor, ...own.map(({ entry }) => entry))));
    } catch (error) {
      for (const _ of entries) suppressed();
      log.warn({ err: error, refusals: entries.length }, 'refusals could not be recorded');
    }
  }

  const timer = setInterval(() => {
    writing = writing.then(flush);
  }, everyMs);
  return {
    record(actor, entry) {
      if (waiting.length >= waitingMax || !actors.take(actor)) return suppressed();
      waiting.push({ actor, entry });
      return undefined;
    },
    async recordNow(actor, entry) {
      if (!answered.take(actor)) return suppressed();
      return insertAudit(db, actor, entry).catch((error: unknown) => {
        suppressed();
        log.warn({ err: error, actor, action: entry.action }, 'a refusal could not be recorded');
      });
    },
    async stop() {
      clearInterval(timer);
      await writing;
      await flush();
    },
  };
}
