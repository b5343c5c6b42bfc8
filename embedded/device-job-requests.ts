import { createHash } from 'node:crypto';
import type { EventEmitter } from 'node:events';
import { z } from 'zod';
import type { Exchange } from './device-exchange.ts';
import type { Job, Verdict } from './device-job-journal.ts';
import { describeTopic, packageTopic, startNextTopic, updateTopic } from './device-topics.ts';
import type { DeviceEvents } from './device.ts';

/** As notifications and answers carry it; fields that are not known are ignored. */
const executionSchema = z.object({
  jobId: z.string().regex(/^[\w-]{1,64}$/),
  executionNumber: z.int().default(1),
  status: z.enum(['QUEUED', 'IN_PROGRESS']),
  jobDocument: z.unknown(),
});

/** What a device has to do, or is doing. */
export type Execution = z.infer<typeof executionSchema>;

export type JobRequests = {
  /** What is next; undefined when nothing is. */
  next(): Promise<Execution | undefined>;
  /** Starts what is next, or gives what is started. */
  startNext(): Promise<Execution | undefined>;
  /** This very job, with addresses that still serve; undefined when it is no longer to be done. */
  describe(job: Job): Promise<Execution | undefined>;
  /** False when the server does not take it: it has ended the execution itself. */
  report(job: Job, status: Verdict['status'] | 'IN_PROGRESS', details: Record<string, string>): Promise<boolean>;
  /** Says what runs. */
  tellVersion(product: string, version: string): Promise<void>;
};

export type JobRequestsDeps = {
  device: string;
  exchange: Pick<Exchange, 'ask'>;
  events: EventEmitter<DeviceEvents>;
};

const detailLengthMax = 1_024;

/** What a device asks AWS IoT Jobs and says to it, each until there is an answer. */
export function jobRequestsOf({ device, exchange, events }: JobRequestsDeps): JobRequests {
  async function ask(topic: string, request: object): Promise<Execution | undefined> {
    const reply = await exchange.ask(topic, request);
    return 'accepted' in reply ? readExecution(reply.accepted) : undefined;
  }

  return {
    next: () => ask(describeTopic(device, '$next'), {}),
    startNext: () => ask(startNextTopic(device), {}),
    describe: ({ jobId, executionNumber }) => ask(describeTopic(device, jobId), { executionNumber }),

    async report({ jobId, executionNumber }, status, details) {
      const topic = updateTopic(device, jobId);
      const request = { status, executionNumber, statusDetails: cleaned(details) };
      // After a restart it is the same request again.
      const token = createHash('sha256')
        .update(`${topic} ${JSON.stringify(request)}`)
        .digest('base64url');
      const reply = await exchange.ask(topic, request, token);
      if ('accepted' in reply) events.emit('job', jobId, status, details['phase']);
      else events.emit('jobRefused', jobId, reply.rejected.code);
      return 'accepted' in reply;
    },

    async tellVersion(product, version) {
      const reply = await exchange.ask(packageTopic(device), { state: { reported: { [product]: { version } } } });
      if ('accepted' in reply) return;
      events.emit('trouble', new Error(`${reply.rejected.code}: ${reply.rejected.message}`));
    },
  };
}

/** The execution in a message, if there is one that is still to be done. */
export const readExecution = ({ execution }: Record<string, unknown>): Execution | undefined =>
  executionSchema.safeParse(execution).data;

/** AWS Jobs: 1,024 characters each, none of them a control character. */
const cleaned = (details: Record<string, string>) =>
  Object.fromEntries(
    Object.entries(details).map(([key, value]) => [key, value.replaceAll(/\p{C}/gu, ' ').slice(0, detailLengthMax)]),
  );
