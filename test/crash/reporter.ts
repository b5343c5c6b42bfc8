import { inArray } from 'drizzle-orm';
import { connect } from 'mqtt';
import { expect } from 'vitest';
import { commandTargets, commandTransitions } from '../../db/schema.ts';
import { executionTopic } from '../clients/fleet.ts';
import type { System } from '../support/system.ts';
import type { Enrolled } from './devices.ts';
import type { Rig } from './rig.ts';

export type Reporter = AsyncDisposable & {
  /** Reports this execution as done, at QoS 1; resolves with its acknowledgement, over whichever connection. */
  report(executionId: string): Promise<void>;
  acknowledged: Set<string>;
  /** Resolves in the moment in which so many are acknowledged. */
  reached(count: number): Promise<void>;
  /** How many were sent again. */
  repeated(): number;
};

/** A device that only reports: an ordinary MQTT client, which sends again what was not acknowledged. */
export async function createReporter({ mqtt }: System, { name, certificate, privateKey }: Enrolled): Promise<Reporter> {
  const acknowledged = new Set<string>();
  let goal = { count: 0, resolve: () => {} };
  let repeated = 0;
  const client = connect({
    protocol: 'mqtts',
    host: mqtt.host,
    port: mqtt.port,
    servername: mqtt.serverName,
    ca: mqtt.ca,
    cert: certificate,
    key: privateKey,
    clientId: name,
    protocolVersion: 5,
    clean: false,
    properties: { sessionExpiryInterval: 3_600 },
    reconnectPeriod: 200,
    reconnectOnConnackError: true,
    connectTimeout: 15_000,
  });
  client.on('error', () => {}); // it tries again
  const said = new Set<string>();
  client.on('packetsend', (packet) => {
    if (packet.cmd !== 'publish') return;
    if (said.has(packet.topic)) repeated += 1;
    said.add(packet.topic);
  });
  await new Promise<void>((resolve) => client.once('connect', () => resolve()));
  return {
    acknowledged,
    repeated: () => repeated,
    reached: (count) => new Promise((resolve) => (goal = { count, resolve })),
    async report(executionId) {
      const body = JSON.stringify({ status: 'SUCCEEDED', result: { of: { s: executionId } } });
      await client.publishAsync(executionTopic(name, executionId, 'response/json'), body, { qos: 1 });
      acknowledged.add(executionId);
      if (acknowledged.size >= goal.count) goal.resolve();
    },
    [Symbol.asyncDispose]: () => client.endAsync(true),
  };
}

/** Each of them has ended with its own result, by one transition. */
export async function expectRecordedOnce({ system: { db } }: Rig, executionIds: string[]): Promise<void> {
  const targets = await db.select().from(commandTargets).where(inArray(commandTargets.executionId, executionIds));
  expect(targets.map(({ executionId, status, result }) => ({ executionId, status, result })).toSorted(byId)).toEqual(
    executionIds
      .map((executionId) => ({ executionId, status: 'SUCCEEDED', result: { of: { s: executionId } } }))
      .toSorted(byId),
  );
  const steps = await db.select().from(commandTransitions).where(inArray(commandTransitions.executionId, executionIds));
  const ends = steps.filter(({ status }) => status === 'SUCCEEDED');
  expect(ends.map(({ executionId }) => executionId).toSorted()).toEqual(executionIds.toSorted());
}

const byId = (a: { executionId: string }, b: { executionId: string }) => (a.executionId < b.executionId ? -1 : 1);
