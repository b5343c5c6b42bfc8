import { randomUUIDv7 } from 'node:crypto';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Client, Connection } from '@temporalio/client';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { Aedes, type Client as AedesClient } from 'aedes';
import { postgres } from '../../db/postgres.ts';
import { notifyNextTopic } from '../../embedded/device-topics.ts';
import { listen } from '../bare/tls.ts';
import { readFingerprint } from '../door.ts';
import { serveJobs } from '../jobs.ts';
import { deviceReported, referenceRollout, updateDeviceId, type ReferenceActivities } from './workflow.ts';

const logger = new DefaultLogger('WARN');
Runtime.install({ logger });
const taskQueue = 'bench-reference';
let client: Client | undefined;

const jobs = {
  /** The worker, its broker and a table for its verdicts. Returns the broker's port. */
  async start({ address, namespace, databaseUrl }: { address: string; namespace: string; databaseUrl: string }) {
    client = new Client({ connection: await Connection.connect({ address }), namespace });
    const sql = postgres(databaseUrl, { max: 10, onnotice: () => {} });
    await sql`create table if not exists bench_verdicts (id uuid primary key, device text, status text)`;
    const broker = await startBroker();
    const activities: ReferenceActivities = {
      async tell(device) {
        const payload = JSON.stringify({ execution: { jobId: randomUUIDv7(), executionNumber: 1, status: 'QUEUED' } });
        const packet = { cmd: 'publish' as const, topic: notifyNextTopic(device), payload, dup: false, retain: false };
        await new Promise<void>((resolve) => broker.publish({ ...packet, qos: 1 }, () => resolve()));
      },
      async judge({ device, status }) {
        await sql`insert into bench_verdicts (id, device, status) values (${randomUUIDv7()}, ${device}, ${status})`;
      },
    };
    const workflowsPath = fileURLToPath(import.meta.resolve('./workflow.ts'));
    const worker = await Worker.create({
      connection: await NativeConnection.connect({ address }),
      namespace,
      taskQueue,
      workflowBundle: await bundleWorkflowCode({ workflowsPath, logger }),
      activities,
      maxCachedWorkflows: 2_000,
    });
    void worker.run();
    const server = createServer({ noDelay: true }, (socket) => {
      socket.on('error', () => socket.destroy());
      void readFingerprint(socket).then(() => broker.handle(socket));
    });
    return listen(server);
  },

  /** To every one of the devices. How long it took, and the id of its workflow. */
  async rollOut({ devices }: { devices: string[] }) {
    const startedAt = performance.now();
    const workflowId = `reference/${randomUUIDv7()}`;
    await client?.workflow.execute(referenceRollout, { workflowId, taskQueue, args: [devices] });
    return { seconds: (performance.now() - startedAt) / 1_000, workflowId };
  },
};

async function pass(
  device: AedesClient,
  topic: string,
  status: string,
  done: (error?: Error | null) => void,
): Promise<void> {
  await client?.workflow.getHandle(updateDeviceId(device.id)).signal(deviceReported, status);
  const answer = { topic: `${topic}/accepted`, payload: '{}', dup: false, retain: false };
  device.publish({ cmd: 'publish', ...answer, qos: 1 }, () => {});
  done(null);
}

/** A report is answered when Temporal has the signal. */
const startBroker = () =>
  Aedes.createBroker({
    authorizePublish(device, { topic, payload }, done) {
      if (!device) return done(null); // what the activity publishes
      // Only the bench's own devices are here.
      const { status } = JSON.parse(payload.toString()) as { status: string };
      void pass(device, topic, status, done);
      return undefined;
    },
  });

export type ReferenceJobs = typeof jobs;
serveJobs(jobs);
