import type { z } from 'zod';
import type { RefusalDetail } from '../workflows/refusals.ts';
import { readCbor, writeCbor } from './cbor.ts';
import type { Commands } from './commands.ts';
import { commandResponse } from './commands.ts';
import { describeIdentity } from './identity.ts';
import { jobRejection } from './job-answers.ts';
import { describeRequest, pendingRequest, startNextRequest, updateRequest } from './job-requests.ts';
import type { Jobs } from './jobs.ts';
import type { Listener } from './listener.ts';
import type { Message, Published, Session } from './messages.ts';
import { parsePayload, type Parsed } from './payloads.ts';
import type { Provisioning } from './provisioning.ts';
import { csrRequest, keysRequest, registrationRequest } from './provisioning.ts';
import type { RefusalLog } from './refusals.ts';
import { shadowRejection, softwareGet, softwareUpdate, type SoftwareShadow } from './software.ts';
import { fill, match, owns, topics, type Topic } from './topics.ts';

export type Request<Body> = {
  session: Session;
  /** The topic's own levels, by name. */
  params: Record<string, string>;
  body: Body;
  /** What came, for a quarantine. */
  message: Message;
};

/** What an effect says: taken, an expected no, or that nobody knows, so that nothing may be acknowledged. */
export type Reply =
  | {
      /** A text is JSON already. */
      accepted: object | string;
      /** What follows when the answer is on its way. */
      afterwards?: () => void;
    }
  | { refused: RefusalDetail; executionState?: object }
  | { givenUp: string };

/** How bodies are read and answers written. */
type Codec = { read: (payload: Uint8Array, bytesMax: number) => Parsed; write: (answer: object | string) => Buffer };

const json: Codec = {
  read: parsePayload,
  write: (answer) => Buffer.from(typeof answer === 'string' ? answer : JSON.stringify(answer)),
};
const cbor: Codec = { read: readCbor, write: writeCbor };

type Row = {
  topic: Topic;
  bytesMax: number;
  /** JSON where nothing is said. */
  codec?: Codec;
  /** Of those that may be accepted. */
  accepted?: Topic;
  rejected: Topic;
  /** The body is undefined when it could not be read. */
  rejection: (
    fault: RefusalDetail,
    request: Pick<Request<unknown>, 'params' | 'body'> & { executionState?: object | undefined },
  ) => object;
  /** Parses the body and runs the effect; a fault of the body comes back as a refusal. */
  handle: (request: Request<unknown>) => Promise<Reply>;
  /** What the audit calls a refusal; a question that is answered no is nothing for it. */
  refused?: 'enrolment.refused' | 'command.refused' | 'job.refused' | 'software.refused';
};

export type RequestsDeps = {
  commands: Pick<Commands, 'respond'>;
  provisioning: Provisioning;
  jobs: Omit<Jobs, 'drain'>;
  software: Pick<SoftwareShadow, 'update' | 'get'>;
  listener: Pick<Listener, 'answer'>;
  refusals: Pick<RefusalLog, 'recordNow'>;
};

const kib = 1024;

const provisioningRejection = ({ code, detail, status }: RefusalDetail) => ({
  statusCode: status,
  errorCode: code,
  errorMessage: detail,
});

const commandRejection: Row['rejection'] = ({ code, detail }, { params }) => ({
  error: code,
  errorMessage: detail,
  executionId: params['execution'] ?? '',
});

/** Fleet provisioning in both payload formats: one effect each, two codecs. */
const provisioningRows = ({ createKeys, createFromCsr, register }: Provisioning): Row[] =>
  (['', 'InCbor'] as const).flatMap((format) => [
    enrolling(format, 'createKeys', 4 * kib, parsed(keysRequest, createKeys)),
    enrolling(format, 'createFromCsr', 64 * kib, parsed(csrRequest, createFromCsr)),
    enrolling(format, 'provision', 64 * kib, parsed(registrationRequest, register)),
  ]);

const enrolling = (
  format: '' | 'InCbor',
  name: 'createKeys' | 'createFromCsr' | 'provision',
  bytesMax: number,
  handle: Row['handle'],
): Row => ({
  topic: topics[`${name}${format}`],
  bytesMax,
  accepted: topics[`${name}${format}Accepted`],
  rejected: topics[`${name}${format}Rejected`],
  rejection: provisioningRejection,
  handle,
  refused: 'enrolment.refused',
  ...(format === 'InCbor' && { codec: cbor }),
});

/** Everything that a device can say. One row: topic, with who may → limit → answers → shape → effect. */
const table = ({ commands, provisioning, jobs, software }: RequestsDeps): Row[] => [
  ...provisioningRows(provisioning),
  {
    topic: topics.commandResponse,
    bytesMax: 128 * kib,
    accepted: topics.commandAccepted,
    rejected: topics.commandRejected,
    rejection: commandRejection,
    refused: 'command.refused',
    handle: parsed(commandResponse, commands.respond),
  },
  {
    topic: topics.pendingJobs,
    bytesMax: 4 * kib,
    accepted: topics.pendingJobsAccepted,
    rejected: topics.pendingJobsRejected,
    rejection: jobRejection,
    handle: parsed(pendingRequest, jobs.pending),
  },
  {
    topic: topics.startNextJob,
    bytesMax: 128 * kib,
    accepted: topics.startNextJobAccepted,
    rejected: topics.startNextJobRejected,
    rejection: jobRejection,
    refused: 'job.refused',
    handle: parsed(startNextRequest, jobs.startNext),
  },
  {
    topic: topics.describeJob,
    bytesMax: 4 * kib,
    accepted: topics.describeJobAccepted,
    rejected: topics.describeJobRejected,
    rejection: jobRejection,
    handle: parsed(describeRequest, jobs.describe),
  },
  {
    topic: topics.updateJob,
    bytesMax: 128 * kib,
    accepted: topics.updateJobAccepted,
    rejected: topics.updateJobRejected,
    rejection: jobRejection,
    refused: 'job.refused',
    handle: parsed(updateRequest, jobs.update),
  },
  {
    topic: topics.unknownOfJobs,
    bytesMax: 128 * kib,
    rejected: topics.unknownOfJobsRejected,
    rejection: jobRejection,
    refused: 'job.refused',
    handle: jobs.unknown,
  },
  {
    topic: topics.unknownOfJob,
    bytesMax: 128 * kib,
    rejected: topics.unknownOfJobRejected,
    rejection: jobRejection,
    refused: 'job.refused',
    handle: jobs.unknown,
  },
  {
    topic: topics.softwareUpdate,
    bytesMax: 16 * kib,
    accepted: topics.softwareUpdateAccepted,
    rejected: topics.softwareUpdateRejected,
    rejection: shadowRejection,
    refused: 'software.refused',
    handle: parsed(softwareUpdate, software.update, ({ message }) => message),
  },
  {
    topic: topics.softwareGet,
    bytesMax: 4 * kib,
    accepted: topics.softwareGetAccepted,
    rejected: topics.softwareGetRejected,
    rejection: shadowRejection,
    handle: parsed(softwareGet, software.get, ({ message }) => message),
  },
];

/**
 * Takes every publish through the table. The answer goes to the connection that asked and to no other, and only once what
 * it says is committed.
 */
export function createRequests(deps: RequestsDeps) {
  const rows = table(deps);

  return {
    /** What became of the publish. It never rejects: a bug is a publish that was given up. */
    dispatch: async (session: Session, message: Message): Promise<Published> => {
      if (message.retain) return { outcome: 'refused', detail: 'a retained message is not taken here' };
      for (const row of rows) {
        const params = match(row.topic.pattern, message.topic);
        if (!params) continue;
        if (!row.topic.who.includes(session.identity.kind) || !owns(session, params)) break;
        return answer(row, { session, params, body: undefined, message });
      }
      return { outcome: 'refused', detail: 'nobody listens to this topic, or it is not yours' };
    },
  };

  async function answer(row: Row, request: Request<unknown>): Promise<Published> {
    const { session, params } = request;
    const { reply, body } = await replyOf(row, request);
    if ('givenUp' in reply) return { outcome: 'given-up', detail: reply.givenUp };
    if ('refused' in reply && row.refused) await record(session, row.refused, reply.refused);
    const [topic, answered] = answerOf(row, reply, { params, body });
    const payload = (row.codec ?? json).write(answered);
    deps.listener.answer(session, { topic: fill(topic.pattern, params), payload, qos: 1 });
    if ('afterwards' in reply) reply.afterwards?.();
    return { outcome: 'committed' };
  }

  async function record(
    { identity }: Session,
    action: NonNullable<Row['refused']>,
    { code, detail, status }: RefusalDetail,
  ) {
    if (status >= 500) return;
    const actor = describeIdentity(identity);
    await deps.refusals.recordNow(actor, { action, subject: actor, data: { code, detail } });
  }
}

function answerOf(
  { accepted, rejected, rejection }: Row,
  reply: Exclude<Reply, { givenUp: string }>,
  request: Pick<Request<unknown>, 'params' | 'body'>,
): [Topic, object | string] {
  if ('accepted' in reply) return [accepted ?? rejected, reply.accepted];
  return [rejected, rejection(reply.refused, { ...request, executionState: reply.executionState })];
}

async function replyOf(row: Row, request: Request<unknown>): Promise<{ reply: Reply; body?: unknown }> {
  const read = (row.codec ?? json).read(request.message.payload, row.bytesMax);
  if ('fault' in read) return { reply: { refused: { ...read.fault, status: 400 } } };
  const body = read.value;
  try {
    return { reply: await row.handle({ ...request, body }), body };
  } catch (error) {
    return { reply: { givenUp: error instanceof Error ? error.message : 'unexpected' } };
  }
}

/** Unknown fields are ignored: clients serialise whole requests, with what stands in the topic in the body too. */
function parsed<Body>(
  schema: z.ZodType<Body>,
  effect: (request: Request<Body>) => Promise<Reply>,
  spell = ({ path, message }: z.core.$ZodIssue) => `${path.join('.') || 'the request'}: ${message}`,
): Row['handle'] {
  return async (request) => {
    const { success, data, error } = schema.safeParse(request.body);
    if (success) return effect({ ...request, body: data });
    const [issue] = error.issues;
    return { refused: { code: 'InvalidRequest', detail: issue ? spell(issue) : 'not understood', status: 400 } };
  };
}
