import { ApplicationFailure } from '@temporalio/common';

/** What a refusal says at the edge: a stable code, a sentence, and the HTTP status that fits it. */
export type RefusalDetail = { code: string; detail: string; status: number };

/**
 * An expected no. It has a status, is never retried, and crosses Temporal whole. The gateway and the API each turn it
 * into their own kind of answer in one place. `detail` is read by strangers: it names the fault and the limit, no secret.
 */
export function refusal(code: string, detail: string, status = 422): ApplicationFailure {
  const carried: RefusalDetail = { code, detail, status };
  return ApplicationFailure.create({ type: 'Refusal', message: detail, nonRetryable: true, details: [carried] });
}

/** The refusal inside an error, however deeply Temporal has wrapped it; undefined when the error is a bug or an outage. */
export function findRefusal(error: unknown): RefusalDetail | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof ApplicationFailure && cause.type === 'Refusal') {
      // `refusal` is the only maker of this type of failure, and it always carries exactly one RefusalDetail.
      return cause.details?.[0] as RefusalDetail;
    }
  }
  return undefined;
}
