import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import { deleteOldFeed, deleteOldIdempotencyKeys, deleteOldOwnershipTokens, makePartitions } from '../db/retention.ts';

const everyMs = 3_600_000;

/** Once at the start and every hour: partitions of the months to come, and what is kept for a time only. */
export function keepHouse({ db, log }: { db: Db; log: Logger }): { stop(): void } {
  const keep = () =>
    Promise.all([
      makePartitions(db),
      deleteOldIdempotencyKeys(db),
      deleteOldOwnershipTokens(db),
      deleteOldFeed(db),
    ]).catch((error: unknown) => log.error({ err: error }, 'housekeeping failed; it is tried again in an hour'));
  void keep();
  const timer = setInterval(() => void keep(), everyMs);
  return { stop: () => clearInterval(timer) };
}
