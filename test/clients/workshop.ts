import { randomBytes } from 'node:crypto';
import { localWire } from '../../gateway/wire.ts';
import { makeDatabase } from '../support/database.ts';
import { createFleet, startTestGateway, type Credentials, type Fleet, type GatewayRig } from '../support/gateway.ts';
import { executionOf, makeJob, queueJob, type ExecutionRow, type JobOptions, type TestJob } from '../support/jobs.ts';

export type Workshop = AsyncDisposable & {
  fleet: Fleet;
  gateway: GatewayRig;
  /** Where the gateway is, as a device would know it. */
  mqtt: { host: string; port: number; serverName: string; ca: string };
  /** A device with its credentials and a client id, as the SDK's clients are dialled with. */
  makeDevice(): Promise<Credentials & { clientId: string; deviceId: string; name: string }>;
  /** Gives these devices a job to do, and says so as the rollout's lifecycle does. */
  give(devices: { deviceId: string }[], options?: JobOptions & { priority?: number }): Promise<TestJob>;
  rowOf(job: TestJob, device: { deviceId: string }): Promise<ExecutionRow>;
};

/** A gateway in this process, with real rows, for devices that have jobs to do. */
export async function openWorkshop(options: Parameters<typeof startTestGateway>[1] = {}): Promise<Workshop> {
  await using opening = new AsyncDisposableStack();
  const { db } = opening.use(await makeDatabase());
  const fleet = await createFleet(db);
  const wire = localWire();
  const gateway = opening.use(await startTestGateway(fleet, { wire, ...options }));
  const resources = opening.move();
  return {
    fleet,
    gateway,
    mqtt: { host: '127.0.0.1', port: gateway.listener.port, serverName: 'localhost', ca: fleet.authority.rootPem },
    makeDevice: async () => ({ ...(await fleet.makeDevice()), clientId: `test-${randomBytes(4).toString('hex')}` }),
    async give(devices, { priority = 0, ...job } = {}) {
      const made = await makeJob(db, job);
      const orders = devices.map(({ deviceId }) => deviceId);
      await queueJob(db, made, orders, { priority });
      wire.tell({ orders });
      return made;
    },
    rowOf: (job, { deviceId }) => executionOf(db, job, deviceId),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
