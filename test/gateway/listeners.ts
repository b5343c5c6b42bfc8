import { eq } from 'drizzle-orm';
import type { Database } from '../../db/client.ts';
import { jobNotices } from '../../db/rollout-schema.ts';
import type { Session } from '../../gateway/messages.ts';
import { localWire } from '../../gateway/wire.ts';
import { eventually } from '../support/eventually.ts';
import { makeJob, queueJob } from '../support/jobs.ts';
import { createExecutors, nameOf, type ExecutorsOptions } from './executors.ts';
import { openSession } from './rows.ts';

/** Devices that listen, with what each is told, in order: which notification, and the ids in it. */
export function createListeners(db: Database, options: ExecutorsOptions = {}) {
  const wire = localWire();
  const executors = createExecutors(db, { wire, ...options });
  const { ear, notices } = executors;
  const listen = async (session: Session, ...operations: ('notify' | 'notify-next')[]) => {
    await openSession(db, session);
    const filters = operations.map((operation) => `$aws/things/${nameOf(session)}/jobs/${operation}`);
    ear.subscribe(session.key, ...filters);
    notices.subscribed(session, filters);
  };
  const toldTo = (session: Session) =>
    ear.told
      .filter(({ key }) => key === session.key)
      .map(({ message }) => {
        const body = JSON.parse(Buffer.from(message.payload).toString()) as Notification;
        const operation = message.topic.split('/').at(-1);
        return { operation, body, ids: body.jobs ? idsOf(body.jobs) : (body.execution?.jobId ?? null) };
      });
  const namesTo = (session: Session) => toldTo(session).map(({ operation, ids }) => [operation, ids]);
  const hint = (...devices: { id: string }[]) => wire.tell({ orders: devices.map(({ id }) => id) });
  const noticesOf = ({ id }: { id: string }) => db.select().from(jobNotices).where(eq(jobNotices.deviceId, id));
  /** Until everything that is to be told was told and acknowledged. */
  const settled = (device: { id: string }) => eventually(async () => (await noticesOf(device)).length === 0);
  const queue = async (device: { id: string }, priority = 0) => {
    const job = await makeJob(db);
    await queueJob(db, job, [device.id], { priority });
    hint(device);
    return job;
  };
  return { ...executors, wire, listen, toldTo, namesTo, hint, noticesOf, settled, queue };
}

type Summaries = Record<string, { jobId: string }[]>;
type Notification = { timestamp: number; jobs?: Summaries; execution?: { jobId: string } };
const idsOf = (jobs: Summaries) =>
  Object.fromEntries(Object.entries(jobs).map(([status, own]) => [status, own.map(({ jobId }) => jobId)]));
