import type { Client } from '@temporalio/client';
import type { Logger } from 'pino';
import { findRefusal, refusal, type RefusalDetail } from '../workflows/refusals.ts';

export type Answer<T> = { accepted: T } | { refused: RefusalDetail };

export type AnswersDeps = {
  temporal: { client: Client };
  log: Pick<Logger, 'error'>;
  /** When a device is told that it should try again: before its client gives up, which agents do after 10 s. */
  answerWithinMs?: number | undefined;
};

export const unavailable = (detail: string): RefusalDetail => ({ code: 'ServiceUnavailable', detail, status: 503 });

/**
 * Answers within the time that a device waits: a refusal by its own name, all else as a matter of trying again. What
 * takes longer goes on, and the next request finds what came of it.
 */
export function createAnswers({ temporal, log, answerWithinMs = 8_000 }: AnswersDeps) {
  return async <T>(work: () => Promise<T>): Promise<Answer<T>> => {
    try {
      const doing = temporal.client.withDeadline(Date.now() + answerWithinMs, work);
      const accepted = await inTime(doing, answerWithinMs);
      return accepted ? { accepted } : { refused: unavailable('the answer takes too long; try again') };
    } catch (error) {
      const refused = findRefusal(error);
      if (refused) return { refused };
      log.error({ err: error }, 'an enrolment could not be answered');
      return { refused: unavailable('the enrolment cannot be answered now; try again') };
    }
  };
}

/** What was accepted; a refusal is thrown, for a door whose framework answers errors in one place. */
export function takeAccepted<T>(answer: Answer<T>): T {
  if ('accepted' in answer) return answer.accepted;
  const { code, detail, status } = answer.refused;
  throw refusal(code, detail, status);
}

async function inTime<T>(work: Promise<T>, withinMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), withinMs)));
  return Promise.race([work, limit]).finally(() => clearTimeout(timer));
}
