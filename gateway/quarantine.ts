import type { Counter } from 'prom-client';
import type { Db } from '../db/client.ts';
import { insertQuarantined } from '../db/quarantine.ts';
import type { Message } from './messages.ts';
import { scrubText } from './payloads.ts';
import type { Reply } from './requests.ts';

const errorLengthMax = 1_024;

/** Keeps what the database refuses, for a person to see, and gives what its device is told. */
export async function quarantine(
  { db, quarantined }: { db: Db; quarantined: Pick<Counter, 'inc'> },
  { deviceId, message: { topic, payload } }: { deviceId: string; message: Message },
  error: unknown,
): Promise<Reply> {
  quarantined.inc();
  await insertQuarantined(db, { deviceId, topic, payload, error: messageOf(error) });
  return { refused: { code: 'InternalError', detail: 'the report could not be recorded', status: 500 } };
}

const messageOf = (error: unknown) => {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return scrubText(cause instanceof Error ? cause.message : String(cause), errorLengthMax) ?? '';
};
