import { AsyncLocalStorage } from 'node:async_hooks';
import { and, eq, like, sql } from 'drizzle-orm';
import { Counter, Registry } from 'prom-client';
import { expect } from 'vitest';
import type { Database } from '../../db/client.ts';
import { executions, type ExecutionStatus } from '../../db/rollout-schema.ts';
import { events, outbox } from '../../db/schema.ts';
import { createJobDocuments, type SignAddress } from '../../gateway/job-documents.ts';
import { createJobs } from '../../gateway/jobs.ts';
import type { Message, Session } from '../../gateway/messages.ts';
import { createNotices } from '../../gateway/notices.ts';
import { createRequests } from '../../gateway/requests.ts';
import { deafWire, type Wire } from '../../gateway/wire.ts';
import type { SignOrder } from '../../pki/orders.ts';
import { runRolloutId } from '../../workflows/run-rollout.ts';
import { executionOf, makeJob, queueJob, type JobOptions, type TestJob } from '../support/jobs.ts';
import { availabilityOf, createEar, noEffects, quiet, sessionOf } from './ear.ts';
import { makeDevice } from './rows.ts';

export type ExecutorsOptions = {
  wire?: Wire;
  signAddress?: SignAddress;
  signOrder?: SignOrder;
  sweepEveryMs?: number;
  settleMs?: number;
  inProgressMax?: number;
  requestsMax?: number;
  limits?: NonNullable<Parameters<typeof createJobs>[0]['limits']>;
};

type Summary = { jobId: string; versionNumber: number; executionNumber: number };

/** What an answer may have in it, and its text as it was sent. */
export type Answered = {
  outcome: string;
  text: string;
  body: {
    execution?: Summary & { status: string; jobDocument?: unknown };
    inProgressJobs?: Summary[];
    queuedJobs?: Summary[];
    code?: string;
    executionState?: object;
    jobDocument?: unknown;
  };
};

/** Devices that execute jobs, as if each had a connection. */
export function createExecutors(db: Database, options: ExecutorsOptions = {}) {
  const { wire = deafWire(), signAddress, signOrder, sweepEveryMs, settleMs = 0, ...limits } = options;
  const ear = createEar();
  const availability = availabilityOf(db);
  const logged: unknown[] = [];
  const log = { ...quiet, error: (...what: unknown[]) => void logged.push(what) };
  const documents = createJobDocuments({ db, signAddress, signOrder, log });
  const telling = { db, listener: ear, wire, documents, availability, log, settleMs };
  const notices = createNotices({ ...telling, ...(sweepEveryMs !== undefined && { sweepEveryMs }) });
  const quarantined = new Counter({ name: 'q', help: 'q', registers: [new Registry()] });
  const relay = { wakes: 0, wake: () => void (relay.wakes += 1) };
  const jobs = createJobs({ db, documents, notices, relay, availability, log, quarantined, ...limits });
  const refused: { action: string; data: object }[] = [];
  const refusals = {
    recordNow: async (_: string, entry: { action: string; data: object }) => void refused.push(entry),
  };
  /** The answers to each request, however many are under way. */
  const answers = new AsyncLocalStorage<Message[]>();
  const listener = {
    answer(session: Session, message: Message) {
      answers.getStore()?.push(message);
      return ear.answer(session, message);
    },
  };
  const { dispatch } = createRequests({ ...noEffects, jobs, listener, refusals });

  /** The one answer to `$aws/things/<thing>/jobs/<path>`. */
  async function ask(session: Session, path: string, body: unknown = {}): Promise<Answered> {
    const topic = `$aws/things/${nameOf(session)}/jobs/${path}`;
    const payload = Buffer.from(typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body));
    const given: Message[] = [];
    const published = await answers.run(given, () => dispatch(session, { topic, payload, qos: 1 }));
    const [answer] = given;
    if (published.outcome !== 'committed' || !answer) return { outcome: published.outcome, body: {}, text: '' };
    expect(given).toHaveLength(1);
    expect(answer.topic.slice(0, topic.length + 1)).toBe(`${topic}/`);
    const text = Buffer.from(answer.payload).toString();
    return { outcome: answer.topic.slice(topic.length + 1), body: JSON.parse(text), text };
  }

  /** A device with its session, and these jobs to do, in their order. */
  async function device(...given: JobOptions[]) {
    const { id, name } = await makeDevice(db);
    const made: TestJob[] = [];
    for (const asked of given) {
      const job = await makeJob(db, asked);
      await queueJob(db, job, [id]);
      made.push(job);
    }
    return { id, name, session: sessionOf({ id, name }), jobs: made };
  }

  return {
    db,
    ear,
    ask,
    dispatch,
    jobs,
    notices,
    relay,
    refused,
    logged,
    quarantined,
    device,
    update: (session: Session, job: TestJob, body: unknown) => ask(session, `${job.id}/update`, body),

    /** A device with one execution that stands at that status, in version 7. */
    async deviceAt(status: ExecutionStatus) {
      const { jobs: made, ...own } = await device({});
      const [job] = made as [TestJob];
      const endedAt = status === 'QUEUED' || status === 'IN_PROGRESS' ? null : sql`now()`;
      const row = { status, version: 7, endedAt, details: { kept: 'yes' } };
      await db.update(executions).set(row).where(eq(executions.jobId, job.id));
      return { ...own, job, read: () => executionOf(db, job, own.id) };
    },

    pokesTo: ({ rolloutId }: TestJob) =>
      db
        .select()
        .from(outbox)
        .where(eq(outbox.workflowId, runRolloutId(rolloutId))),

    eventsOf: async (deviceId: string) => {
      const isOfExecution = and(eq(events.deviceId, deviceId), like(events.kind, 'execution.%'));
      const rows = await db.select().from(events).where(isOfExecution).orderBy(events.id);
      return rows.map(({ kind, subject, data }) => ({ kind, subject, data }));
    },
  };
}

export const nameOf = ({ identity }: Session) => (identity.kind === 'device' ? identity.name : '');
export const seconds = expect.toSatisfy((at: number) => Number.isInteger(at) && Math.abs(at - Date.now() / 1_000) < 60);
