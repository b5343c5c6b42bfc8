import type { Logger } from 'pino';
import type { Counter } from 'prom-client';
import type { Database } from '../db/client.ts';
import { insertQuarantined } from '../db/quarantine.ts';
import type { Availability } from './availability.ts';
import type { BatchesDeps, Written } from './batches.ts';
import type { Message } from './messages.ts';
import { scrubText } from './payloads.ts';
import type { Reply } from './requests.ts';

/** What it takes to record what devices say, in batches. */
export type RecordingDeps = {
  db: Database;
  availability: Availability;
  relay: { wake(): void };
  log: Pick<Logger, 'error'>;
  /** Counts the reports that the database refused. */
  quarantined: Pick<Counter, 'inc'>;
  limits?: Partial<Pick<BatchesDeps<never, never>, 'gatherMs' | 'itemsMax' | 'queueMax' | 'deadlineMs' | 'heldMaxMs'>>;
};

const errorLengthMax = 1_024;

/** What a device is told of what was not committed. What the database refuses is kept, for a person to see. */
export async function unrecorded(
  { db, quarantined }: Pick<RecordingDeps, 'db' | 'quarantined'>,
  { deviceId, message: { topic, payload } }: { deviceId: string; message: Message },
  written: Exclude<Written<never>, { outcome: 'committed' }>,
): Promise<Reply> {
  if (written.outcome === 'given-up') return { givenUp: written.detail };
  quarantined.inc();
  await insertQuarantined(db, { deviceId, topic, payload, error: messageOf(written.error) });
  return { refused: { code: 'InternalError', detail: 'the report could not be recorded', status: 500 } };
}

const messageOf = (error: unknown) => {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return scrubText(cause instanceof Error ? cause.message : String(cause), errorLengthMax) ?? '';
};
