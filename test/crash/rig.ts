import { Client } from '@temporalio/client';
import { openConnection } from '../../workers/temporal.ts';
import { startBalancer, type Balancer } from '../support/balancer.ts';
import { ownPostgres, type OwnPostgres } from '../support/database.ts';
import { startSystem, type System } from '../support/system.ts';
import { ownTemporal, type OwnTemporal } from '../support/temporal.ts';

export type Wire = 'postgres' | 'none';

export type Rig = AsyncDisposable & {
  postgres: OwnPostgres;
  temporal: OwnTemporal;
  /** Two gateways; its `mqtt` is the balancer before them. */
  system: System;
  balancer: Balancer;
  /** For looking at the workflows. */
  client: Client;
};

/** The gateways judge and sweep quickly; what they judge by stays in proportion. */
export const deadAfterSeconds = 4;
const timing = {
  GATEWAY_SWEEP_SECONDS: '2',
  GATEWAY_PRESENCE_DEBOUNCE_SECONDS: '1',
  GATEWAY_BEAT_SECONDS: '1',
  GATEWAY_DEAD_AFTER_SECONDS: String(deadAfterSeconds),
};

/** The whole product with two gateways, on a Postgres and a Temporal that may be killed; `none` loses every hint. */
export async function startRig({ wire = 'postgres' }: { wire?: Wire } = {}): Promise<Rig> {
  await using starting = new AsyncDisposableStack();
  const [postgres, temporal] = await Promise.all([ownPostgres(), ownTemporal()]);
  starting.use(postgres);
  starting.use(temporal);
  const env = { ...timing, LONGHAUL_WIRE: wire };
  const system = starting.use(await startSystem({ gateways: 2, postgres, temporal, env }));
  const ours = [system.api, system.lifecycle, ...system.gateways];
  // Nothing is left to be drained when a test ends; what a drain does is shown elsewhere.
  starting.defer(async () => void (await Promise.all(ours.map((one) => one.kill()))));
  const balancer = starting.use(await startBalancer(system.gateways.map(({ port }) => port)));
  const connection = openConnection({ address: temporal.address });
  starting.defer(() => connection.close());
  const resources = starting.move();
  return {
    postgres,
    temporal,
    balancer,
    system: { ...system, mqtt: { ...system.mqtt, port: balancer.port } },
    client: new Client({ connection, namespace: temporal.namespace }),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
