import type { HttpBindings } from '@hono/node-server';
import { Hono, type Context, type MiddlewareHandler } from 'hono';
import { healthRoutes, type Probes } from '../api/health.ts';
import { answerProblem, Problem } from '../api/problem.ts';
import { trustFileRoutes } from '../api/revocation-lists.ts';
import type { Database } from '../db/client.ts';
import { findRefusal } from '../workflows/refusals.ts';
import { createAnswers, type AnswersDeps } from './answers.ts';
import { createClaimTokens, type ClaimTokensDeps } from './claim-tokens.ts';
import { enrolRoutes } from './enrol.ts';
import { createEntrance, waitingForApproval, type EntranceDeps } from './entrance.ts';
import { estRoutes } from './est.ts';
import type { DoorsMetrics } from './metrics.ts';
import { addressOf } from './peers.ts';
import { createRenewal } from './renewal.ts';

export type DoorsDeps = EntranceDeps &
  AnswersDeps & {
    db: Database;
    probes: Probes;
    metrics: Pick<DoorsMetrics, 'requests'>;
    /** Whether somebody at this address may ask again now. */
    mayAsk: (address: string) => boolean;
    claimTokens?: Omit<ClaimTokensDeps, 'db'>;
    /** Told of errors that are answered without their text. */
    report: (error: unknown) => void;
  };

export type DoorsEnv = { Bindings: HttpBindings };
export type DoorsApp = ReturnType<typeof createDoors>;

/** What the routes of a door are made from. */
export type DoorRouteDeps = Pick<DoorsDeps, 'db'> & {
  entrance: ReturnType<typeof createEntrance>;
  renew: ReturnType<typeof createRenewal>;
  tokens: ReturnType<typeof createClaimTokens>;
  answer: ReturnType<typeof createAnswers>;
};

const comeBackSeconds = 30;
const lockedOutSeconds = 60;

/** The doors that speak HTTP, as one function from request to answer. They have the API's manners, and its problems. */
export function createDoors(deps: DoorsDeps) {
  const { db, metrics, mayAsk, report } = deps;
  const routeDeps: DoorRouteDeps = {
    db,
    entrance: createEntrance(deps),
    renew: createRenewal(deps),
    tokens: createClaimTokens({ db, ...deps.claimTokens }),
    answer: createAnswers(deps),
  };
  const app = new Hono<DoorsEnv>();
  app.onError((error, c) => answerError(c, error, report));
  app.notFound((c) => answerProblem(c, new Problem('not-found', 'There is no such route.'), report));
  app.use(count(metrics));
  app.route('/', healthRoutes(deps));
  app.use(limit(mayAsk));
  app.route('/', trustFileRoutes(deps));
  app.route('/', enrolRoutes(routeDeps));
  app.route('/', estRoutes(routeDeps));
  return app;
}

/** A not yet is an answer of its own kind; the noes say when to come back, or what to show. */
function answerError(c: Context, error: unknown, report: (error: unknown) => void): Response {
  const code = findRefusal(error)?.code;
  if (code === waitingForApproval) {
    const waiting = { state: 'WAITING_FOR_APPROVAL', retryAfterSeconds: comeBackSeconds };
    const headers = { 'Retry-After': String(comeBackSeconds), 'Cache-Control': 'no-store' };
    return isEst(c) ? withoutBody(202, headers) : c.json(waiting, 202, headers);
  }
  const answer = answerProblem(c, error, report);
  answer.headers.set('Cache-Control', 'no-store');
  if (code === 'TooManyAttempts') answer.headers.set('Retry-After', String(lockedOutSeconds));
  if (answer.status === 503 && !answer.headers.has('Retry-After')) answer.headers.set('Retry-After', '2');
  if (answer.status !== 401) return answer;
  if (isEst(c)) return withoutBody(401, { 'WWW-Authenticate': challengeOf('Basic'), 'Cache-Control': 'no-store' });
  answer.headers.set('WWW-Authenticate', challengeOf('Bearer'));
  return answer;
}

/** One alone: clients that know one scheme stumble over a list. EST takes `Bearer` all the same. */
const challengeOf = (scheme: 'Basic' | 'Bearer') => `${scheme} realm="enrolment"`;

const isEst = (c: Context) => doorOf(c.req.path) === 'est';

/** EST clients go on by the headers of these alone, and some take a body that they left unread for a fault. */
const withoutBody = (status: number, headers: Record<string, string>) =>
  new Response(null, { status, headers: { ...headers, 'Content-Length': '0' } });

const limit =
  (mayAsk: DoorsDeps['mayAsk']): MiddlewareHandler<DoorsEnv> =>
  async (c, next) => {
    if (mayAsk(addressOf(c.env))) return next();
    throw new Problem('too-many-requests', 'This address asks too often.', { headers: { 'Retry-After': '1' } });
  };

const count =
  ({ requests }: DoorsDeps['metrics']): MiddlewareHandler<DoorsEnv> =>
  async (c, next) => {
    await next();
    requests.inc({ door: doorOf(c.req.path), status: c.res.status });
  };

function doorOf(path: string): string {
  if (path.startsWith('/.well-known/est/')) return 'est';
  return path === '/v1/enroll' ? 'token' : 'trust';
}
