import type { Execution } from '../db/executions.ts';
import type { RefusalDetail } from '../workflows/refusals.ts';
import { isRecord } from './payloads.ts';

/** What is echoed in every answer, as it came. */
export type ClientToken = string | number | undefined;

const summariesMax = 10;

export const refusals = {
  unknown: { code: 'ResourceNotFound', detail: 'this device has no such execution', status: 404 },
  terminal: { code: 'TerminalStateReached', detail: 'the execution has ended', status: 409 },
  ended: { code: 'InvalidStateTransition', detail: 'the execution has ended', status: 409 },
  busy: { code: 'InvalidStateTransition', detail: 'another execution is in progress', status: 409 },
  version: { code: 'VersionMismatch', detail: 'the execution has another version', status: 409 },
  throttled: { code: 'RequestThrottled', detail: 'too many requests of this device are under way', status: 429 },
  topic: { code: 'InvalidTopic', detail: 'there is no such operation', status: 404 },
} satisfies Record<string, RefusalDetail>;

export const nowSeconds = () => Math.floor(Date.now() / 1_000);

export const hasEnded = ({ status }: Pick<Execution, 'status'>) => status !== 'QUEUED' && status !== 'IN_PROGRESS';

export const summaryOf = ({ jobId, attempt, version, queuedAt, startedAt, updatedAt }: Execution) => ({
  jobId,
  queuedAt,
  ...(startedAt !== null && { startedAt }),
  lastUpdatedAt: updatedAt,
  versionNumber: version,
  executionNumber: attempt,
});

export const stateOf = ({ status, details, version }: Execution) => ({
  status,
  ...(Object.keys(details).length > 0 && { statusDetails: details }),
  versionNumber: version,
});

type Described = { execution: Execution | undefined; document: string | undefined; thingName: string };

/** The body of an answer, with the execution and its document if there is one: JSON. */
export function executionBody({ execution, document, thingName }: Described, body: object): string {
  const json = JSON.stringify(body);
  if (!execution) return json;
  const { secondsLeft } = execution;
  const described = {
    ...summaryOf(execution),
    ...stateOf(execution),
    thingName,
    ...(secondsLeft !== null && { approximateSecondsBeforeTimedOut: secondsLeft }),
  };
  return splice(json, 'execution', splice(JSON.stringify(described), 'jobDocument', document));
}

/** An object's JSON, which has a member already, with one more, whose value is JSON; without it when that is undefined. */
export const splice = (json: string, name: string, value: string | undefined): string =>
  value === undefined ? json : `${json.slice(0, -1)},"${name}":${value}}`;

/** `notify`: the first of what is pending, by status. */
export function pendingBody(executions: Execution[]): string {
  const first = executions.slice(0, summariesMax);
  const byStatus = Object.entries(Object.groupBy(first, ({ status }) => status));
  const jobs = Object.fromEntries(byStatus.map(([status, own]) => [status, own.map(summaryOf)]));
  return JSON.stringify({ timestamp: nowSeconds(), jobs });
}

/** A rejection. The token is that of the request, even of one that is not understood otherwise. */
export function jobRejection(
  { code, detail }: RefusalDetail,
  { body, executionState }: { body: unknown; executionState?: object | undefined },
): object {
  const clientToken = isRecord(body) ? body['clientToken'] : undefined;
  const isToken = typeof clientToken === 'string' || typeof clientToken === 'number';
  return {
    code,
    message: detail,
    timestamp: nowSeconds(),
    ...(isToken && { clientToken }),
    ...(executionState && { executionState }),
  };
}
