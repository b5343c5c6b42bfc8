import type { Logger } from 'pino';
import { warnOfCertificates } from '../db/certificate-warnings.ts';
import { warnOfEndings } from '../db/authority-endings.ts';
import type { Db } from '../db/client.ts';
import { deleteOldRegistrations } from '../db/registrations.ts';
import { deleteOldClaimFailures } from '../db/claim-failures.ts';
import {
  deleteOldFeed,
  deleteOldHookAnswers,
  deleteOldIdempotencyKeys,
  deleteOldOwnershipTokens,
  makePartitions,
} from '../db/retention.ts';

const everyMs = 3_600_000;

/** Once at the start and every hour: partitions of the months to come, what is kept for a time only, authorities that end. */
export function keepHouse({ db, log }: { db: Db; log: Logger }): { stop(): void } {
  const keep = () =>
    Promise.all([
      makePartitions(db),
      deleteOldIdempotencyKeys(db),
      deleteOldOwnershipTokens(db),
      deleteOldHookAnswers(db),
      deleteOldClaimFailures(db),
      deleteOldFeed(db),
      deleteOldRegistrations(db),
      warn({ db, log }),
      warnOfLate({ db, log }),
    ]).catch((error: unknown) => log.error({ err: error }, 'housekeeping failed; it is tried again in an hour'));
  void keep();
  const timer = setInterval(() => void keep(), everyMs);
  return { stop: () => clearInterval(timer) };
}

/** Fleets die of authorities that have ended more often than of devices' certificates. */
async function warn({ db, log }: { db: Db; log: Logger }): Promise<void> {
  for (const ending of await warnOfEndings(db)) log.error(ending, `an authority ends within ${ending.months} months`);
}

/** A rotation that does not come about is seen while there is a fifth of the certificate's life left. */
async function warnOfLate({ db, log }: { db: Db; log: Logger }): Promise<void> {
  const late = await warnOfCertificates(db);
  if (late.length > 0)
    log.error({ late: late.slice(0, 20) }, `${late.length} certificates end soon and are not replaced`);
}
