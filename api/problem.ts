import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { findRefusal, type RefusalDetail } from '../workflows/refusals.ts';

/** Every problem that the API itself tells of: its type is `urn:longhaul:problem:<name>`, which never changes. */
const problems = {
  'malformed-json': [400, 'The body is not JSON'],
  'malformed-query': [400, 'The query is not understood'],
  'malformed-filter': [400, 'The filter is not understood'],
  'foreign-cursor': [400, 'The cursor does not belong to this list'],
  'malformed-idempotency-key': [400, 'The idempotency key is not understood'],
  'upload-interrupted': [400, 'The content broke off'],
  unauthenticated: [401, 'A key is needed'],
  forbidden: [403, 'The key may not do this'],
  'not-found': [404, 'There is no such thing'],
  'method-not-allowed': [405, 'The route does not take this method'],
  conflict: [409, 'The state does not allow it'],
  'name-taken': [409, 'The name is taken'],
  'too-large': [413, 'The body is too large'],
  'unsupported-media-type': [415, 'The media type is not taken'],
  invalid: [422, 'The body breaks a rule'],
  'idempotency-key-reused': [422, 'The idempotency key was used for another request'],
  'authority-refused': [422, 'The authority is refused'],
  'csr-refused': [422, 'The certificate request is refused'],
  'content-refused': [422, 'The content is not what was announced'],
  'file-refused': [422, 'The file is refused'],
  'key-refused': [422, 'The release key is refused'],
  'manifest-refused': [422, 'The manifest is refused'],
  'targets-refused': [422, 'Some targets cannot take the command'],
  'too-many-requests': [429, 'Too many requests'],
  internal: [500, 'Something went wrong on our side'],
  unavailable: [503, 'Something that is needed is away'],
} as const satisfies Record<string, readonly [status: ContentfulStatusCode, title: string]>;

export type ProblemName = keyof typeof problems;
/** One fault of a body, by JSON pointer (RFC 6901), or of a query, by parameter. */
export type Fault = { detail: string; pointer: string } | { detail: string; parameter: string };
export type ProblemOptions = { errors?: Fault[]; headers?: Record<string, string> };

const faultsMax = 100;

/** An expected no of the API's own, thrown by a route and answered in one place. Its detail holds no secret. */
export class Problem extends Error {
  override name = 'Problem';
  readonly problem: ProblemName;
  readonly options: ProblemOptions;

  constructor(problem: ProblemName, detail: string, options: ProblemOptions = {}) {
    super(detail);
    this.problem = problem;
    this.options = options;
  }
}

/** The answer to an error (RFC 9457). An error that nobody expected is answered without its text, and told to `report`. */
export function answerProblem(c: Context, error: unknown, report: (error: unknown) => void): Response {
  if (error instanceof Problem) return write(c, error);
  const refusal = findRefusal(error);
  if (refusal) return writeRefusal(c, refusal);
  if (error instanceof HTTPException) return write(c, fromHono(error));
  report(error);
  if (isOutage(error)) return write(c, outage());
  return write(c, new Problem('internal', 'The fault was recorded.'));
}

/** A limit of time or rate says when to come back. */
const outage = () =>
  new Problem(
    'unavailable',
    'The database is away. Whether the request took effect is unknown: repeat it with the same Idempotency-Key.',
    { headers: { 'Retry-After': '1' } },
  );

function write(c: Context, { problem, message, options: { errors, headers } }: Problem): Response {
  const [status, title] = problems[problem];
  const shown = errors && { errors: errors.slice(0, faultsMax) };
  return send(c, status, { type: typeOf(problem), title, status, detail: message, ...shown }, headers);
}

/** The other layers' refusals carry their own code, status and sentence. */
function writeRefusal(c: Context, { code, detail, status }: RefusalDetail): Response {
  const body = { type: typeOf(code), title: 'The request is refused', status, detail };
  // A refusal's status is a client error's, all of which may have a body.
  return send(c, status as ContentfulStatusCode, body, status === 429 ? { 'Retry-After': '1' } : {});
}

const typeOf = (code: string) => `urn:longhaul:problem:${code}`;

/** A key that its owner put in the wrong place is not shown again: answers end up in logs. */
const keys = /lhc?_[0-9a-f]{32}_[\w-]+/g;

const send = (c: Context, status: ContentfulStatusCode, body: object, headers: Record<string, string> = {}) =>
  c.body(JSON.stringify(body).replaceAll(keys, 'lh_…'), status, {
    'Content-Type': 'application/problem+json',
    ...headers,
  });

/** What the framework's own validators throw, before ours are reached. */
function fromHono({ status }: HTTPException): Problem {
  if (status === 415) return new Problem('unsupported-media-type', 'The body must be application/json.');
  return new Problem('malformed-json', 'The request could not be read.');
}

const outageCodes = /^(CONNECTION_|CONNECT_TIMEOUT|ECONN|ENOTFOUND|EPIPE|ETIMEDOUT|ENOENT|08|57P0|53300|25006)/;

/** Whether the database, rather than the statement, is at fault. */
function isOutage(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if ('code' in cause && typeof cause.code === 'string' && outageCodes.test(cause.code)) return true;
  }
  return false;
}
