import { OpenAPIHono } from '@hono/zod-openapi';
import type { Database, Db } from '../db/client.ts';
import type { Store } from '../files/store.ts';
import type { Authority } from '../pki/authority.ts';
import { artifactRoutes, artifactUploads } from './artifacts.ts';
import { auditRoutes } from './audit.ts';
import { authenticate } from './auth.ts';
import { authorityRoutes, type MakeIssuingKey } from './authorities.ts';
import { authorityEndingRoutes } from './authority-endings.ts';
import { blockRoutes } from './blocks.ts';
import { readBodies } from './bodies.ts';
import { certificateRoutes } from './certificates.ts';
import { claimRoutes } from './claims.ts';
import { commandRoutes } from './commands.ts';
import { decommissionRoutes } from './decommissions.ts';
import { deviceRoutes } from './devices.ts';
import { enrolmentRoutes } from './enrolments.ts';
import type { StreamLimits } from './event-streams.ts';
import { groupRoutes } from './groups.ts';
import { healthRoutes, type Probes } from './health.ts';
import { workOnce, type Hint } from './idempotency.ts';
import { jobRoutes } from './jobs.ts';
import { createLists, type FindPage } from './lists.ts';
import { describeApi } from './openapi.ts';
import { manufacturerAuthorityRoutes } from './manufacturer-authorities.ts';
import { orderKeyRoutes } from './order-keys.ts';
import { answerProblem, Problem } from './problem.ts';
import { limitRates } from './rates.ts';
import { recoveryRoutes } from './recoveries.ts';
import { registeredKeyRoutes } from './registered-keys.ts';
import { registrationUploads } from './registration-uploads.ts';
import { registrationRoutes } from './registrations.ts';
import { releaseKeyRoutes } from './release-keys.ts';
import { releaseRoutes } from './releases.ts';
import { trustBundleRoutes } from './trust-bundles.ts';
import { trustFileRoutes } from './revocation-lists.ts';
import { rolloutDecisionRoutes } from './rollout-decisions.ts';
import { rolloutEventRoutes } from './rollout-events.ts';
import { rolloutExecutionRoutes } from './rollout-executions.ts';
import { rolloutOrderRoutes } from './rollout-orders.ts';
import { rolloutRoutes } from './rollouts.ts';
import { rotationPolicyRoutes } from './rotation-policies.ts';
import { rotationRoutes } from './rotations.ts';
import { serviceRoutes } from './services.ts';
import { templateRoutes } from './templates.ts';

/** What every route finds on its context. */
export type Api = {
  Variables: {
    /** The API key's id. */
    credential: string;
    actor: string;
    /** The database, or the transaction that this request works in. */
    db: Db;
    /** Drops a hint on the wire once the change is committed. */
    tell(hint: Hint): void;
    /** What an idempotency key keeps in place of an answer with a secret in it. */
    kept?: unknown;
  };
};

export type Deps = {
  db: Database;
  wire: { tell(hint: Hint): void };
  authority: Authority;
  makeIssuingKey: MakeIssuingKey;
  /** Where artifacts are kept. */
  store: Store;
  probes: Probes;
  /** Without a slash at its end; pages of workflows are under it. */
  temporalUiUrl: string;
  namespace: string;
  version: string;
  /** 32 bytes, the same in every API process. */
  cursorKey: Uint8Array;
  /** 32 bytes, the same in every lifecycle worker: seals the secrets of templates' hooks. */
  sealingKey: Uint8Array;
  limits: { bodyBytes: number; artifactBytes: number; registrationBytes: number; requestsPerSecond: number };
  /** Of streams of events. */
  streams?: Partial<StreamLimits> | undefined;
  /** Aborted when the process is about to stop: what streams ends then. */
  closing?: AbortSignal | undefined;
  /** Told of errors that are answered without their text. */
  report: (error: unknown) => void;
};

/** What the routes of a noun are made from. */
export type RouteDeps = Pick<
  Deps,
  | 'db'
  | 'authority'
  | 'makeIssuingKey'
  | 'sealingKey'
  | 'temporalUiUrl'
  | 'namespace'
  | 'streams'
  | 'closing'
  | 'report'
> & { findPage: FindPage };

/** The API as one function from request to answer: `createApp(deps).fetch`. */
export function createApp(deps: Deps) {
  const { db, wire, limits, report } = deps;
  const app = new OpenAPIHono<Api>();
  app.onError((error, c) => answerProblem(c, error, report));
  app.notFound((c) => answerProblem(c, new Problem('not-found', 'There is no such route.'), report));

  app.route('/', healthRoutes(deps));
  app.route('/', trustFileRoutes(deps));

  app.use(authenticate({ db }));
  app.use(limitRates({ perSecond: limits.requestsPerSecond }));
  app.route('/v1', artifactUploads(deps));
  app.route('/v1', registrationUploads(deps));
  app.use(readBodies({ bytesMax: limits.bodyBytes }));
  app.use(workOnce({ db, wire }));

  const routeDeps = { ...deps, findPage: createLists(deps) };
  const nouns = [
    deviceRoutes,
    decommissionRoutes,
    blockRoutes,
    groupRoutes,
    templateRoutes,
    claimRoutes,
    manufacturerAuthorityRoutes,
    serviceRoutes,
    registrationRoutes,
    registeredKeyRoutes,
  ];
  const software = [artifactRoutes, releaseKeyRoutes, releaseRoutes, orderKeyRoutes];
  const rollouts = [
    rolloutRoutes,
    rolloutOrderRoutes,
    rolloutExecutionRoutes,
    rolloutDecisionRoutes,
    rolloutEventRoutes,
  ];
  const rotations = [rotationRoutes, rotationPolicyRoutes, recoveryRoutes];
  const trust = [authorityRoutes, authorityEndingRoutes, trustBundleRoutes];
  const readers = [enrolmentRoutes, certificateRoutes, commandRoutes, auditRoutes];
  for (const routes of [...nouns, ...software, ...rollouts, jobRoutes, ...rotations, ...trust, ...readers])
    app.route('/v1', routes(routeDeps));
  describeApi(app, deps.version);
  return app;
}
