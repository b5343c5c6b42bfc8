import { randomUUIDv7 } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { and, eq, sql } from 'drizzle-orm';
import { expect, inject } from 'vitest';
import type { Database } from '../../db/client.ts';
import { deviceSoftware, executions, jobs } from '../../db/rollout-schema.ts';
import { createDevice, type Device, type DeviceOptions } from '../../embedded/device.ts';
import type { GatewayDeps } from '../../gateway/gateway.ts';
import { localWire } from '../../gateway/wire.ts';
import { createOrderSigner } from '../../pki/orders.ts';
import { makeDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createFleet, startTestGateway, type Fleet, type GatewayRig } from '../support/gateway.ts';
import { serveArtifacts, type Artifacts } from './artifacts.ts';
import { makeReleaseKey, manifestOf, product, softwareOf, type Content, type ReleaseKey } from './releases.ts';

/** A device of a test, and everything that the fleet took of what it said about jobs. */
export type Updating = Device & { id: string; folder: string; said: string[] };

export type Workshop = AsyncDisposable & {
  db: Database;
  fleet: Fleet;
  gateway: GatewayRig;
  wire: ReturnType<typeof localWire>;
  artifacts: Artifacts;
  key: ReleaseKey;
  orderKey: ReleaseKey;
  /** Moves the clock of the gateway that signs orders. */
  turnOrders(aheadMs: number): void;
  /** Registered and started. */
  makeDevice(options?: Partial<DeviceOptions>): Promise<Updating>;
  /** An image that is served, and the document of a job that is to install it. */
  makeRelease(bytes: Buffer, change?: object): Content & { document: object };
  /**
   * Has the device do this, as a rollout does: gives the job's id. A document with a manifest comes with an order; one that
   * is made for the job's id comes as it is.
   */
  give(device: Updating, document: object | string | ((jobId: string) => Promise<object>)): Promise<string>;
  /** Another attempt at a job. */
  giveAgain(device: Updating, jobId: string, attempt: number): Promise<void>;
  executionOf(jobId: string, attempt?: number): Promise<typeof executions.$inferSelect | undefined>;
  /** Fails the test unless the execution comes to stand like this. */
  expectExecution(jobId: string, as: object, attempt?: number): Promise<void>;
  /** What the fleet believes that the device runs. */
  versionOf(device: Updating): Promise<string | undefined>;
};

/** Devices with software, a gateway, and a server of files; nothing between them but what the contract says. */
export async function openWorkshop(
  optionsFor: (fleet: Fleet) => Promise<Partial<GatewayDeps>> = async () => ({}),
): Promise<Workshop> {
  const rig = new AsyncDisposableStack();
  const wire = localWire();
  const { db } = rig.use(await makeDatabase());
  const fleet = await createFleet(db);
  const artifacts = rig.use(await serveArtifacts());
  let signed = 0;
  let aheadMs = 0;
  const orderKey = makeReleaseKey();
  const now = () => Date.now() + aheadMs;
  const gateway = rig.use(
    await startTestGateway(fleet, {
      wire,
      signAddress: ({ sha256, deviceId, jobId }) =>
        `${artifacts.url}/artifacts/${sha256}?device=${deviceId}&job=${jobId}&serial=${(signed += 1)}`,
      signOrder: await createOrderSigner({ privateKey: orderKey.privateKey, lifetimeSeconds: 3_600, now }),
      ...(await optionsFor(fleet)),
    }),
  );
  const key = makeReleaseKey();

  async function tell(deviceId: string): Promise<void> {
    await db.execute(sql`
      insert into job_notices (device_id, list, head) values (${deviceId}::uuid, true, true)
      on conflict (device_id) do update set change = excluded.change, list = true, head = true, attempts = 0,
        next_attempt_at = now()`);
    wire.tell({ orders: [deviceId] });
  }

  async function executionOf(jobId: string, attempt = 1) {
    const [row] = await db
      .select()
      .from(executions)
      .where(and(eq(executions.jobId, jobId), eq(executions.attempt, attempt)));
    return row;
  }

  return {
    db,
    fleet,
    gateway,
    wire,
    artifacts,
    key,
    orderKey,
    turnOrders: (ms) => void (aheadMs = ms),
    executionOf,
    async makeDevice(change = {}) {
      const { deviceId: id, name, certificate, privateKey } = await fleet.makeDevice();
      const folder = join(inject('folder'), 'updating', name);
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, 'private-key.pem'), privateKey);
      writeFileSync(join(folder, 'certificate.pem'), certificate);
      writeFileSync(join(folder, 'device.json'), JSON.stringify({ name, activated: true }));
      const made = createDevice({
        folder,
        mqtt: { host: '127.0.0.1', port: gateway.listener.port, serverName: 'localhost', ca: fleet.authority.rootPem },
        claim: { certificate: 'none', privateKey: 'none' },
        template: 'default',
        parameters: {},
        backOffMs: 20,
        software: softwareOf(key, orderKey),
        ...change,
      });
      const said: string[] = [];
      made.events.on('job', (_, status, phase) => said.push(status === 'IN_PROGRESS' ? String(phase) : status));
      made.events.on('jobRefused', (_, code) => said.push(code));
      const device = rig.use(Object.assign(made, { id, folder, said }));
      device.start();
      await eventually(() => device.connected());
      return device;
    },
    makeRelease(bytes, change) {
      const content = artifacts.put(bytes);
      const { sha256, size } = content;
      const url = `\${longhaul:url:${sha256}}`;
      const manifest = manifestOf(content, change);
      const artifact = { name: 'pump.bin', sha256, size, url };
      const document = {
        operation: 'update',
        product,
        version: manifest.version,
        manifest: key.sign(manifest),
        artifact,
      };
      return { ...content, document };
    },
    async give(device, asked) {
      const jobId = randomUUIDv7();
      const document = JSON.stringify(typeof asked === 'function' ? await asked(jobId) : asked);
      const isOfRelease = typeof asked === 'object' && 'manifest' in asked && asked.manifest !== undefined;
      const releaseId = isOfRelease ? randomUUIDv7() : null;
      await db.insert(jobs).values({ id: jobId, rolloutId: randomUUIDv7(), document, releaseId });
      await db.insert(executions).values({ jobId, deviceId: device.id, attempt: 1, status: 'QUEUED' });
      await tell(device.id);
      return jobId;
    },
    async giveAgain(device, jobId, attempt) {
      await db.insert(executions).values({ jobId, deviceId: device.id, attempt, status: 'QUEUED' });
      await tell(device.id);
    },
    expectExecution: (jobId, as, attempt) =>
      eventually(async () => expect(await executionOf(jobId, attempt)).toMatchObject(as), { withinMs: 20_000 }),
    async versionOf({ id }) {
      const [row] = await db
        .select()
        .from(deviceSoftware)
        .where(and(eq(deviceSoftware.deviceId, id), eq(deviceSoftware.product, product)));
      return row?.version;
    },
    [Symbol.asyncDispose]: () => rig.disposeAsync(),
  };
}
