import { randomUUIDv7 } from 'node:crypto';
import type { Client } from '@temporalio/client';
import type { Logger } from 'pino';
import type { Database } from '../db/client.ts';
import { probeWritable } from '../db/outcomes.ts';
import { deleteEndedSessions } from '../db/sessions.ts';
import type { SignOrder } from '../pki/orders.ts';
import { may } from './authorise.ts';
import { createAvailability, type Availability } from './availability.ts';
import { startBeats } from './beats.ts';
import { createClock } from './clock.ts';
import { createCommands } from './commands.ts';
import { followFeed } from './feed.ts';
import { describeIdentity } from './identity.ts';
import { defaultLimits, type Limits } from './limits.ts';
import { listen, type Hooks, type Listener } from './listener.ts';
import { createJobDocuments, type SignAddress } from './job-documents.ts';
import { createJobs } from './jobs.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { createNewcomers } from './newcomers.ts';
import { createNotices } from './notices.ts';
import { createOffers } from './offers.ts';
import { createPeriodic } from './periodic.ts';
import type { PlainDoor, Tls } from './ports.ts';
import { settleDisconnects, tellPresence } from './presence.ts';
import { createProvisioning } from './provisioning.ts';
import { createRefusalLog } from './refusals.ts';
import { createRelay } from './relay.ts';
import { createRequests } from './requests.ts';
import { createSessions } from './sessions.ts';
import { createSoftware } from './software.ts';
import { followTrust } from './trust.ts';
import type { Wire } from './wire.ts';

export type GatewayDeps = {
  db: Database;
  wire: Wire;
  temporal: { client: Client; namespace: string; taskQueue: string };
  log: Logger;
  host: string;
  port: number;
  extraPort?: number | undefined;
  plainDoor?: PlainDoor | undefined;
  tls: Tls;
  /** SHA-256 of the keys that no device may have: the authorities' own. */
  forbiddenSpki: Uint8Array[];
  /** Without it, a job that asks for addresses of files gets empty ones. */
  signAddress?: SignAddress | undefined;
  /** Without it, the documents of releases come without orders, and devices refuse them. */
  signOrder?: SignOrder | undefined;
  limits?: Partial<Limits>;
  sessionsPerIdentityMax?: number;
  debounceMs?: number;
  beatEveryMs?: number;
  deadAfterMs?: number;
  sweepEveryMs?: number;
  /** How long a device that has just subscribed is left to ask by itself what there is to do. */
  settleMs?: number;
};

export type Gateway = {
  id: string;
  listener: Listener;
  metrics: Metrics;
  availability: Availability;
  /** What is missing for it to be of use; nothing when it is ready. */
  missing: () => string[];
  /** Ends in good order: what was read is committed, devices are told to go elsewhere, and the rows say so. */
  drain(options?: { graceMs?: number; spreadMs?: number }): Promise<void>;
};

/** One gateway, of any number on the same database. It shares rows with the others, and hints that may be lost. */
export async function startGateway(deps: GatewayDeps): Promise<Gateway> {
  const { db, wire, temporal, log, debounceMs = 5_000, sweepEveryMs = 15_000 } = deps;
  const id = randomUUIDv7();
  const metrics = createMetrics();
  const clock = createClock();
  metrics.watchClock(clock.aheadMs);

  // The parts call the listener and are called by it; none calls before it listens.
  let listener: Listener | undefined;
  const later = {
    answer: (...args: Parameters<Listener['answer']>) => listener?.answer(...args) ?? false,
    notify: async (...args: Parameters<Listener['notify']>) => (await listener?.notify(...args)) ?? false,
    subscribedTo: (...args: Parameters<Listener['subscribedTo']>) => listener?.subscribedTo(...args) ?? false,
  };
  const availability = createAvailability({
    probe: () => probeWritable(db),
    pause: () => listener?.pause(),
    resume: () => listener?.resume(),
    log,
  });
  const suppressed = () => metrics.refusalsSuppressed.inc();
  const refusals = createRefusalLog({ db, log, suppressed });
  const relay = createRelay({ db, gatewayId: id, temporal, wire, registry: metrics.registry, log });
  const offers = createOffers({ db, listener: later, wire, availability, log, sweepEveryMs });
  const documents = createJobDocuments({ db, signAddress: deps.signAddress, signOrder: deps.signOrder, log });
  const telling = { db, listener: later, wire, documents, availability, log, sweepEveryMs };
  const notices = createNotices({ ...telling, ...(deps.settleMs !== undefined && { settleMs: deps.settleMs }) });
  const limits = { ...defaultLimits, ...deps.limits };
  const recording = {
    db,
    availability,
    relay,
    log,
    quarantined: metrics.quarantined,
    limits: { heldMaxMs: limits.holdMaxMs },
  };
  const commands = createCommands(recording);
  const software = createSoftware(recording);
  const jobs = createJobs({
    ...recording,
    documents,
    notices,
    inProgressMax: limits.executionsInProgressMax,
    requestsMax: limits.jobRequestsInFlightMax,
  });
  const enrolling = { db, temporal, log, forbiddenSpki: deps.forbiddenSpki };
  const provisioning = createProvisioning(enrolling);
  const requests = createRequests({ commands, provisioning, jobs, software, listener: later, refusals });
  const sessions = createSessions(
    {
      db,
      gatewayId: id,
      availability,
      wire,
      refusals,
      log,
      debounceMs,
      ...(deps.sessionsPerIdentityMax !== undefined && { sessionsPerIdentityMax: deps.sessionsPerIdentityMax }),
    },
    { activated: relay.wake, introduce: createNewcomers({ ...enrolling, refusals }) },
  );

  const hooks: Hooks = {
    may,
    async connect(request) {
      const answer = await sessions.connect(request);
      metrics.connects.inc({ outcome: 'refused' in answer ? answer.refused : 'accepted' });
      return answer;
    },
    denied({ identity }, action, topic, code) {
      metrics.denied.inc({ action });
      const actor = describeIdentity(identity);
      const data = { action, topic: topic.slice(0, 256), code };
      refusals.record(actor, { action: 'topic.refused', subject: actor, data });
    },
    async publish(session, message) {
      const published = await requests.dispatch(session, message);
      metrics.publishes.inc({ outcome: published.outcome });
      return published;
    },
    subscribing: (session, filters) => sessions.subscribing(session, filters),
    subscribed(session, filters) {
      offers.subscribed(session, filters);
      notices.subscribed(session, filters);
    },
    unsubscribing: (session, filters) => sessions.unsubscribing(session, filters),
    closed(session, reason) {
      metrics.closes.inc({ reason });
      offers.closed(session);
      notices.closed(session);
      sessions.closed(session, reason);
    },
  };

  const address = `${deps.host}:${deps.port}`;
  const timing = { beatEveryMs: deps.beatEveryMs ?? 5_000, deadAfterMs: deps.deadAfterMs ?? 20_000 };
  const beats = await startBeats({
    db,
    gatewayId: id,
    address,
    log,
    debounceMs,
    lost: (error) => availability.lost(error),
    beaten: clock.heard,
    ...timing,
  });
  const listening = await listen({
    host: deps.host,
    port: deps.port,
    extraPort: deps.extraPort,
    plainDoor: deps.plainDoor,
    tls: deps.tls,
    hooks,
    log,
    nowMs: clock.agreedMs,
    ...(deps.limits && { limits: deps.limits }),
    handshakeFailed: (reason) => metrics.handshakesFailed.inc({ reason }),
  });
  listener = listening;
  metrics.watchConnections(() => listening.held().length);

  const feed = followFeed({ db, gatewayId: id, listener: listening, log });
  const trust = followTrust({ db, log, everyMs: sweepEveryMs, trust: listening.trust });
  const presence = tellPresence({ db, listener: listening, log });
  const disconnects = settleDisconnects({ db, wire, log });
  const sweep = createPeriodic({
    name: 'the sweep',
    everyMs: sweepEveryMs,
    log,
    work: () => sessions.sweep(listening),
  });
  const house = createPeriodic({ name: 'tidying', everyMs: 600_000, log, work: () => deleteEndedSessions(db) });
  wire.hear((hint) => {
    if ('feed' in hint) feed.wake();
    else if ('trust' in hint) trust.wake();
    else if ('events' in hint) presence.wake();
    else if ('close' in hint) listening.close(hint.close, 'DUPLICATE_CLIENTID');
  });

  let draining: Promise<void> | undefined;
  async function drain({ graceMs = 10_000, spreadMs = 0 } = {}): Promise<void> {
    // Where Postgres is away the rows stay as they are, and another gateway finds this one dead.
    const inTime = (work: Promise<unknown>[]) => Promise.race([Promise.allSettled(work), pass(graceMs)]);
    await listening.drain({ graceMs, spreadMs });
    await inTime([offers, notices, commands, jobs, software, sessions].map((part) => part.drain()));
    await inTime([feed, trust, presence, disconnects, sweep, house].map((periodic) => periodic.stop()));
    await inTime([relay[Symbol.asyncDispose](), refusals.stop(), beats.stop()]);
    availability.stop();
    await listening[Symbol.asyncDispose]();
  }

  return {
    id,
    listener: listening,
    metrics,
    availability,
    missing: () => [...(availability.away ? ['postgres'] : []), ...(draining ? ['listener'] : [])],
    drain: (options) => (draining ??= drain(options)),
  };
}

const pass = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms).unref());
