import { Worker } from '@temporalio/worker';
import { createActivities } from '../activities/index.ts';
import { connect } from '../db/client.ts';
import { hookSealingKey } from '../pki/hook-secrets.ts';
import { bundleWorkflows } from './bundle.ts';
import { lifecycleConfig } from './config.ts';
import { keepHouse } from './housekeeping.ts';
import { readKey } from './keys.ts';
import { createLog } from './log.ts';
import { keepLists } from './revocation-lists.ts';
import { keepSchedules } from './rotation-schedules.ts';
import { openListSigners, openSigner } from './signer.ts';
import { connectTemporal, connectWorker } from './temporal.ts';
import { openWire } from './wire.ts';

/** The process that runs the lifecycles. SIGTERM finishes what is under way and ends it. */
const config = lifecycleConfig(process.env);
const log = createLog('lifecycle', config.logLevel);

const db = connect({ ...config.database, applicationName: 'longhaul lifecycle' });
const wire = await openWire({ wire: config.wire, directUrl: config.databaseDirectUrl });
const authority = await openSigner(db, config.signer);
const lists = openListSigners(db, config.signer, log);
const sealingKey = hookSealingKey(await readKey(config.signer.keyEncryptionKeyFile));
const { connection, namespace } = await connectWorker();
const worker = await Worker.create({
  connection,
  namespace,
  taskQueue: config.taskQueue,
  workflowBundle: config.bundleFile ? { codePath: config.bundleFile } : await bundleWorkflows(),
  activities: createActivities({ db, authority, lists, wire, hooks: { ...config.hooks, sealingKey } }),
  maxCachedWorkflows: 500,
  shutdownGraceTime: '10s',
});
const housekeeping = keepHouse({ db, log });
const listing = keepLists({ db, signers: lists, log });
const temporal = connectTemporal({ taskQueue: config.taskQueue });
const schedules = keepSchedules({ db, temporal, log });

log.info({ namespace, taskQueue: config.taskQueue }, 'lifecycle worker is ready');
await worker.run();
housekeeping.stop();
await listing.stop();
await schedules.stop();
await temporal[Symbol.asyncDispose]();
await connection.close();
await wire[Symbol.asyncDispose]();
await db.$client.end({ timeout: 5 });
