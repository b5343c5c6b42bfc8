import { createHash } from 'node:crypto';
import type { ExecutionReport } from '../db/execution-reports.ts';
import { createIds } from '../db/ids.ts';
import { rotateCertificateId, rotationOver } from '../workflows/rotate-certificate.ts';
import { rolloutProgressed, runRolloutId } from '../workflows/run-rollout.ts';
import { createBatches } from './batches.ts';
import { executionBody, hasEnded, nowSeconds, refusals, splice, stateOf, summaryOf } from './job-answers.ts';
import type { ClientToken } from './job-answers.ts';
import type { JobDocuments } from './job-documents.ts';
import type { DescribeRequest, PendingRequest, StartNextRequest, UpdateRequest } from './job-requests.ts';
import { answerJobs, type JobAnswer, type JobAsk } from './job-rounds.ts';
import type { Notices } from './notices.ts';
import { isUuid } from './payloads.ts';
import { unrecorded, type RecordingDeps } from './recording.ts';
import type { Reply, Request } from './requests.ts';

export type JobsDeps = RecordingDeps & {
  documents: JobDocuments;
  notices: Pick<Notices, 'offer' | 'knows'>;
  /** Executions that a device may have in progress at a time. */
  inProgressMax?: number;
  /** Requests of one device that are worked on at a time; it is told to come later with more. */
  requestsMax?: number;
};

export type Jobs = ReturnType<typeof createJobs>;

/**
 * AWS IoT Jobs as devices speak it. Requests gather, are answered together in as few statements as they allow, and each
 * answer is given after the commit of what it says.
 */
export function createJobs(deps: JobsDeps) {
  const { db, documents, notices, relay, availability, log, quarantined, inProgressMax = 1, requestsMax = 32 } = deps;
  const poke = { workflowIdPrefix: runRolloutId(''), signal: rolloutProgressed.name };
  const rotationPoke = { workflowIdPrefix: rotateCertificateId(''), signal: rotationOver.name };
  const nextId = createIds();
  const underWay = new Map<string, number>();
  const requests = createBatches<JobAsk, JobAnswer>({
    ...deps.limits,
    name: 'job requests',
    write: (asks) => answerJobs({ db, documents, poke, rotationPoke, inProgressMax }, asks),
    availability,
    log,
  });

  /** Answers what was asked by `reply`, unless there is nothing to answer with. */
  async function ask(what: JobAsk, request: Request<unknown>, reply: (answer: JobAnswer) => Reply): Promise<Reply> {
    const { deviceId } = what;
    const count = underWay.get(deviceId) ?? 0;
    if (count >= requestsMax) return { refused: refusals.throttled };
    underWay.set(deviceId, count + 1);
    const written = await requests.add(what);
    const left = (underWay.get(deviceId) ?? 1) - 1;
    if (left > 0) underWay.set(deviceId, left);
    else underWay.delete(deviceId);
    if (written.outcome === 'committed') return reply(written.result);
    return unrecorded({ db, quarantined }, { deviceId, message: request.message }, written);
  }

  async function pending(request: Request<PendingRequest>): Promise<Reply> {
    const { deviceId, name } = deviceOf(request);
    return ask({ kind: 'pending', deviceId, name, withDocument: false }, request, ({ executions }) => {
      const { IN_PROGRESS = [], QUEUED = [] } = Object.groupBy(executions, ({ status }) => status);
      const listed = { inProgressJobs: IN_PROGRESS.map(summaryOf), queuedJobs: QUEUED.map(summaryOf) };
      return { accepted: { ...listed, ...ending(request) } };
    });
  }

  async function startNext(request: Request<StartNextRequest>): Promise<Reply> {
    const { deviceId, name } = deviceOf(request);
    const { statusDetails: details, stepTimeoutInMinutes: stepMinutes } = request.body;
    const eventId = nextId();
    const ids = { deviceId, jobId: null, attempt: null, eventId, request: unique(eventId) };
    const report = { ...ids, status: 'IN_PROGRESS' as const, details, stepMinutes, expectedVersion: null };
    return ask({ kind: 'report', deviceId, name, report, withDocument: true }, request, (answer) => {
      if (answer.verdict === 'recorded') relay.wake();
      return giveFirst(request, answer);
    });
  }

  async function describe(request: Request<DescribeRequest>): Promise<Reply> {
    const { deviceId, name } = deviceOf(request);
    const { executionNumber: attempt, includeJobDocument: withDocument } = request.body;
    const jobId = request.params['job'] ?? '';
    if (jobId === '$next') {
      return ask({ kind: 'next', deviceId, name, withDocument }, request, (answer) => giveFirst(request, answer));
    }
    if (!isUuid(jobId)) return { refused: refusals.unknown };
    return ask({ kind: 'describe', deviceId, name, jobId, attempt, withDocument }, request, (answer) => {
      const [execution] = answer.executions;
      if (!execution) return { refused: refusals.unknown };
      return hasEnded(execution) ? { refused: refusals.terminal } : give(request, answer);
    });
  }

  async function update(request: Request<UpdateRequest>): Promise<Reply> {
    const { deviceId, name } = deviceOf(request);
    const jobId = request.params['job'] ?? '';
    if (!isUuid(jobId)) return { refused: refusals.unknown };
    const report = { ...reportOf(request), deviceId, jobId };
    return ask(
      { kind: 'report', deviceId, name, report, withDocument: request.body.includeJobDocument },
      request,
      (answer) => {
        const { verdict, executions, document, noticed } = answer;
        const [execution] = executions;
        if (!execution) return { refused: refusals.unknown };
        if (verdict === 'ended' || verdict === 'version' || verdict === 'busy') {
          return { refused: refusals[verdict], executionState: stateOf(execution) };
        }
        if (hasEnded(execution)) relay.wake();
        // When it was recorded, also where it is repeated: the first answer again.
        const body = { ...ending(request), timestamp: execution.updatedAt };
        const state = request.body.includeJobExecutionState ? { executionState: stateOf(execution) } : {};
        return {
          accepted: splice(JSON.stringify({ ...body, ...state }), 'jobDocument', document),
          ...(noticed && { afterwards: () => notices.offer(deviceId) }),
        };
      },
    );
  }

  /**
   * A request is the same as another by its bytes, if it says something that is not said twice: a token, a version, an end.
   * Two reports of progress may well be alike.
   */
  function reportOf({ body, message }: Request<UpdateRequest>): Omit<ExecutionReport, 'deviceId' | 'jobId'> {
    const { status, statusDetails: details, expectedVersion, executionNumber: attempt, stepTimeoutInMinutes } = body;
    const eventId = nextId();
    const isOnce = body.clientToken !== undefined || expectedVersion !== null || status !== 'IN_PROGRESS';
    const request = isOnce ? createHash('sha256').update(message.payload).digest('hex') : unique(eventId);
    return { status, details, expectedVersion, attempt, stepMinutes: stepTimeoutInMinutes, request, eventId };
  }

  /** The first of what is pending, if there is any: the device need not be told of it once more. */
  function giveFirst(request: Request<{ clientToken: ClientToken }>, answer: JobAnswer): Reply {
    return { ...give(request, answer), afterwards: () => notices.knows(request.session, answer.executions[0]) };
  }

  return {
    pending,
    startNext,
    describe,
    update,
    /** A topic among those of jobs that means nothing. */
    unknown: async (): Promise<Reply> => ({ refused: refusals.topic }),
    drain: () => requests.drain(),
  };
}

function give(request: Request<{ clientToken: ClientToken }>, { executions, document }: JobAnswer) {
  const { name: thingName } = deviceOf(request);
  return { accepted: executionBody({ execution: executions[0], document, thingName }, ending(request)) };
}

const ending = ({ body: { clientToken } }: Request<{ clientToken: ClientToken }>) => ({
  timestamp: nowSeconds(),
  clientToken,
});

function deviceOf({ session: { identity } }: Request<unknown>) {
  if (identity.kind !== 'device') throw new Error('jobs are for devices');
  return identity;
}

const unique = (id: string) => id.replaceAll('-', '');
