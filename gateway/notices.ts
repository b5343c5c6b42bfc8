import type { Logger } from 'pino';
import type { Database } from '../db/client.ts';
import { listPendingExecutions, type Execution } from '../db/executions.ts';
import { claimJobNotices, deleteJobNotices, type JobNotice } from '../db/job-notices.ts';
import type { Availability } from './availability.ts';
import { createBatches } from './batches.ts';
import { matchesFilter } from './filters.ts';
import { executionBody, nowSeconds, pendingBody } from './job-answers.ts';
import type { DocumentFor, JobDocuments } from './job-documents.ts';
import type { Listener } from './listener.ts';
import type { Message, Session } from './messages.ts';
import { createRounds } from './rounds.ts';
import { fill, topics, type Topic } from './topics.ts';
import type { Wire } from './wire.ts';

export type NoticesDeps = {
  db: Database;
  listener: Pick<Listener, 'notify' | 'subscribedTo'>;
  wire: Pick<Wire, 'hear'>;
  documents: JobDocuments;
  availability: Availability;
  log: Pick<Logger, 'error'>;
  /** How often all devices held here are looked at, for what no hint told of. */
  sweepEveryMs?: number;
  /**
   * How long a device that has just subscribed is left alone: it asks by itself what there is to do. Told as well, an agent
   * would do it twice.
   */
  settleMs?: number;
};

export type Notices = ReturnType<typeof createNotices>;

/** A device that has subscribed here to be told of its jobs. */
type Ear = {
  deviceId: string;
  name: string;
  identityKey: string;
  sessions: Set<Session>;
  /** Until when it is left alone, as `performance.now()` says it. */
  quietUntil: number;
};

const devicesPerRound = 500;
/** As many as `notify` lists. */
const pendingMax = 10;

/**
 * Tells devices that what they have to do has changed: when they subscribe, on a hint, after their own report, and on a
 * sweep that finds what no hint told of. That a device is to be told is a row until it has acknowledged; what it is told is
 * what stands then. So it hears of the last change at least once, and of those before it perhaps.
 */
export function createNotices(deps: NoticesDeps) {
  const { db, listener, wire, documents, availability, log, sweepEveryMs = 15_000, settleMs = 1_000 } = deps;
  const ears = new Map<string, Ear>();
  /** What each session knows to be the first of what its device has to do. */
  const known = new WeakMap<Session, string>();
  const rounds = createRounds<Ear>({ name: 'telling of jobs', work, itemsMax: devicesPerRound, availability, log });
  const acknowledged = createBatches<Pick<JobNotice, 'deviceId' | 'change'>, undefined>({
    name: 'acknowledged notices',
    write: async (told) => {
      await deleteJobNotices(db, told);
      return told.map(() => undefined);
    },
    availability,
    log,
  });

  async function work(round: Ear[]): Promise<void> {
    const here = round.filter(isListening).map(({ deviceId }) => deviceId);
    const notices = here.length > 0 ? await claimJobNotices(db, here) : [];
    if (notices.length === 0) return;
    const devices = notices.map(({ deviceId }) => deviceId);
    const pending = await listPendingExecutions(db, devices, { perDevice: pendingMax });
    const documentFor = await documents.load([...pending.values()].flatMap(([first]) => first?.jobId ?? []));
    for (const notice of notices) void tell(notice, pending.get(notice.deviceId) ?? [], documentFor);
  }

  async function tell(notice: JobNotice, pending: Execution[], documentFor: DocumentFor): Promise<void> {
    const { deviceId, change, list, head } = notice;
    const ear = ears.get(deviceId);
    if (!ear) return;
    const [first] = pending;
    const sessions = [...ear.sessions];
    const isNews = head && sessions.some((session) => known.get(session) !== nameOf(first));
    const messages = [
      ...(list ? messagesTo(ear, topics.jobsChanged, () => pendingBody(pending)) : []),
      ...(isNews ? messagesTo(ear, topics.nextJobChanged, () => headBody(ear, first, documentFor)) : []),
    ];
    if (isNews) for (const session of sessions) known.set(session, nameOf(first));
    const taken = await Promise.all(messages.map((one) => listener.notify(ear.identityKey, one).catch(() => false)));
    if (taken.every(Boolean)) await acknowledged.add({ deviceId, change });
    // Otherwise it is told again, after the pause that follows each attempt, or when it comes back.
    else if (isNews) for (const session of sessions) known.delete(session);
  }

  const isListening = ({ name, identityKey, sessions }: Ear) =>
    sessions.size > 0 && topicsOf(name).some((topic) => listener.subscribedTo(identityKey, topic));

  /** One message, or none where nobody has subscribed to it. */
  function messagesTo({ name, identityKey }: Ear, { pattern }: Topic, body: () => string): Message[] {
    const topic = fill(pattern, { target: name });
    return listener.subscribedTo(identityKey, topic) ? [{ topic, payload: Buffer.from(body()), qos: 1 }] : [];
  }

  function offer(ear: Ear | undefined): void {
    if (ear && performance.now() >= ear.quietUntil) rounds.add(ear);
  }

  const sweep = setInterval(() => ears.forEach(offer), sweepEveryMs).unref();
  wire.hear((hint) => {
    if ('orders' in hint) for (const deviceId of hint.orders) offer(ears.get(deviceId));
  });

  return {
    /** Tells the device what is due, if it has subscribed here. */
    offer: (deviceId: string): void => offer(ears.get(deviceId)),

    /** The session was given the first of what its device has to do, or told that there is nothing. */
    knows: (session: Session, first: Execution | undefined): void => void known.set(session, nameOf(first)),

    /** Also for the subscriptions that a session came with. */
    subscribed: (session: Session, filters: string[]): void => {
      const { identity, key } = session;
      if (identity.kind !== 'device' || !hears(filters, identity.name)) return;
      const { deviceId, name } = identity;
      const ear = ears.get(deviceId) ?? { deviceId, name, identityKey: key, sessions: new Set(), quietUntil: 0 };
      ears.set(deviceId, ear);
      ear.sessions.add(session);
      ear.quietUntil = performance.now() + settleMs;
      // A timer may be early by a part of a millisecond.
      setTimeout(() => offer(ear), settleMs + 1).unref();
    },

    closed: (session: Session): void => {
      if (session.identity.kind !== 'device') return;
      const ear = ears.get(session.identity.deviceId);
      ear?.sessions.delete(session);
      if (ear?.sessions.size === 0) ears.delete(ear.deviceId);
    },

    async drain(): Promise<void> {
      clearInterval(sweep);
      await rounds.drain();
      await acknowledged.drain();
    },
  };
}

const nameOf = (execution: Execution | undefined) =>
  execution ? `${execution.jobId}/${execution.attempt}` : 'nothing';

const headBody = ({ name: thingName }: Ear, execution: Execution | undefined, documentFor: DocumentFor) => {
  const document = execution && documentFor(execution, thingName);
  return executionBody({ execution, document, thingName }, { timestamp: nowSeconds() });
};

const topicsOf = (target: string) =>
  [topics.jobsChanged, topics.nextJobChanged].map(({ pattern }) => fill(pattern, { target }));

const hears = (filters: string[], name: string) =>
  topicsOf(name).some((topic) => filters.some((filter) => matchesFilter(filter, topic)));
