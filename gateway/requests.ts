import type { z } from 'zod';
import type { RefusalDetail } from '../workflows/refusals.ts';
import type { Commands } from './commands.ts';
import { commandResponse } from './commands.ts';
import { describeIdentity } from './identity.ts';
import type { Listener } from './listener.ts';
import type { Message, Published, Session } from './messages.ts';
import { parsePayload } from './payloads.ts';
import type { Provisioning } from './provisioning.ts';
import { csrRequest, keysRequest, registrationRequest } from './provisioning.ts';
import type { RefusalLog } from './refusals.ts';
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
export type Reply = { accepted: object } | { refused: RefusalDetail } | { givenUp: string };

type Row = {
  topic: Topic;
  bytesMax: number;
  accepted: Topic;
  rejected: Topic;
  rejection: (fault: RefusalDetail, params: Record<string, string>) => object;
  /** Parses the body and runs the effect; a fault of the body comes back as a refusal. */
  handle: (request: Request<unknown>) => Promise<Reply>;
  /** What the audit calls a refusal. */
  refused: 'enrolment.refused' | 'command.refused';
};

export type RequestsDeps = {
  commands: Pick<Commands, 'respond'>;
  provisioning: Provisioning;
  listener: Pick<Listener, 'answer'>;
  refusals: Pick<RefusalLog, 'recordNow'>;
};

const kib = 1024;

const provisioningRejection = ({ code, detail, status }: RefusalDetail) => ({
  statusCode: status,
  errorCode: code,
  errorMessage: detail,
});

const commandRejection = ({ code, detail }: RefusalDetail, { execution = '' }: Record<string, string>) => ({
  error: code,
  errorMessage: detail,
  executionId: execution,
});

/** Everything that a device can say. One row: topic, with who may → limit → answers → shape → effect. */
const table = ({ commands, provisioning }: RequestsDeps): Row[] => [
  {
    topic: topics.createKeys,
    bytesMax: 4 * kib,
    accepted: topics.createKeysAccepted,
    rejected: topics.createKeysRejected,
    rejection: provisioningRejection,
    handle: parsed(keysRequest, provisioning.createKeys),
    refused: 'enrolment.refused',
  },
  {
    topic: topics.createFromCsr,
    bytesMax: 64 * kib,
    accepted: topics.createFromCsrAccepted,
    rejected: topics.createFromCsrRejected,
    rejection: provisioningRejection,
    handle: parsed(csrRequest, provisioning.createFromCsr),
    refused: 'enrolment.refused',
  },
  {
    topic: topics.provision,
    bytesMax: 64 * kib,
    accepted: topics.provisionAccepted,
    rejected: topics.provisionRejected,
    rejection: provisioningRejection,
    handle: parsed(registrationRequest, provisioning.register),
    refused: 'enrolment.refused',
  },
  {
    topic: topics.commandResponse,
    bytesMax: 128 * kib,
    accepted: topics.commandAccepted,
    rejected: topics.commandRejected,
    rejection: commandRejection,
    refused: 'command.refused',
    handle: parsed(commandResponse, commands.respond),
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
    const reply = await replyOf(row, request);
    if ('givenUp' in reply) return { outcome: 'given-up', detail: reply.givenUp };
    if ('refused' in reply) await record(session, row.refused, reply.refused);
    const [topic, body] =
      'accepted' in reply ? [row.accepted, reply.accepted] : [row.rejected, row.rejection(reply.refused, params)];
    const payload = Buffer.from(JSON.stringify(body));
    deps.listener.answer(session, { topic: fill(topic.pattern, params), payload, qos: 1 });
    return { outcome: 'committed' };
  }

  async function record({ identity }: Session, action: Row['refused'], { code, detail, status }: RefusalDetail) {
    if (status >= 500) return;
    const actor = describeIdentity(identity);
    await deps.refusals.recordNow(actor, { action, subject: actor, data: { code, detail } });
  }
}

async function replyOf(row: Row, request: Request<unknown>): Promise<Reply> {
  try {
    const parsedPayload = parsePayload(request.message.payload, row.bytesMax);
    if ('fault' in parsedPayload) return { refused: { ...parsedPayload.fault, status: 400 } };
    return await row.handle({ ...request, body: parsedPayload.value });
  } catch (error) {
    return { givenUp: error instanceof Error ? error.message : 'unexpected' };
  }
}

/** Unknown fields are ignored: clients serialise whole requests, with what stands in the topic in the body too. */
function parsed<Body>(schema: z.ZodType<Body>, effect: (request: Request<Body>) => Promise<Reply>): Row['handle'] {
  return async (request) => {
    const { success, data, error } = schema.safeParse(request.body);
    if (success) return effect({ ...request, body: data });
    const [issue] = error.issues;
    const field = issue?.path.join('.') || 'the request';
    return {
      refused: { code: 'InvalidRequest', detail: `${field}: ${issue?.message ?? 'not understood'}`, status: 400 },
    };
  };
}
