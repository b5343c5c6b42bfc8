import { Worker } from '@temporalio/worker';
import { createActivities } from '../activities/index.ts';
import { connect } from '../db/client.ts';
import { bundleWorkflows } from '../workers/bundle.ts';
import { lifecycleConfig } from '../workers/config.ts';
import { openSigner } from '../workers/signer.ts';
import { connectWorker } from '../workers/temporal.ts';
import { openWire } from '../workers/wire.ts';

/**
 * `workers/lifecycle.ts` with a clock that runs as many times faster as its argument says. What a rollout waits for
 * comes sooner by as much, on Temporal's own timers.
 */
const speed = Number(process.argv[2]);
const config = lifecycleConfig(process.env);
const db = connect({ ...config.database, applicationName: 'longhaul lifecycle' });
const wire = await openWire({ wire: config.wire, directUrl: config.databaseDirectUrl });
const authority = await openSigner(db, config.signer);
const { connection, namespace } = await connectWorker();
const beganAt = Date.now();
const activities = createActivities({
  db,
  authority,
  wire,
  clock: () => new Date(beganAt + (Date.now() - beganAt) * speed),
});

const worker = await Worker.create({
  connection,
  namespace,
  taskQueue: config.taskQueue,
  workflowBundle: await bundleWorkflows(),
  activities: {
    ...activities,
    async reviewRollout(request: { rolloutId: string }) {
      const { waitMs, ...standing } = await activities.reviewRollout(request);
      return { ...standing, waitMs: waitMs && waitMs / speed };
    },
  },
  maxCachedWorkflows: 500,
  shutdownGraceTime: '10s',
});
await worker.run();
await connection.close();
await wire[Symbol.asyncDispose]();
await db.$client.end({ timeout: 5 });
