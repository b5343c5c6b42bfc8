import { randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { appendOpenLifecycles, appendToOutbox } from '../../db/outbox.ts';
import { lifecycles } from '../../gateway/lifecycles.ts';
import { createRelay } from '../../gateway/relay.ts';
import { localWire } from '../../gateway/wire.ts';
import { runRolloutId } from '../../workflows/run-rollout.ts';
import { eventually } from '../support/eventually.ts';
import { makeApi } from '../support/api.ts';
import { makeDevices, makeRelease, makeRollout, startRollouts } from '../support/rollouts.ts';
import { sharedTemporal } from '../support/temporal.ts';
import { quiet } from './ear.ts';
import { openClient, runWorker } from './temporal.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
beforeAll(async () => void (rig = await startRollouts()));
afterAll(() => rig[Symbol.asyncDispose]());

const start = (rolloutId: string) => ({
  kind: 'start' as const,
  workflowId: runRolloutId(rolloutId),
  name: 'runRollout',
  argument: { rolloutId },
});

test('the start of a rollout that runs makes it look again, and one that has ended runs anew', async () => {
  await using connected = openClient(sharedTemporal());
  const deps = {
    db: rig.db,
    gatewayId: randomUUIDv7(),
    temporal: connected,
    registry: new Registry(),
    log: quiet,
    wire: localWire(),
  };
  await using relay = createRelay({ ...deps, pollMs: 50 });
  const id = randomUUIDv7();
  const handle = connected.client.workflow.getHandle(runRolloutId(id));
  const send = async () => {
    await appendToOutbox(rig.db, [start(id)]);
    relay.wake();
    await eventually(async () => (await rig.db.execute(sql`select from outbox`)).length === 0);
    const { events } = await handle.fetchHistory();
    const signals = (events ?? []).flatMap((event) => event.workflowExecutionSignaledEventAttributes?.signalName ?? []);
    return { signals, runId: (await handle.describe()).runId };
  };
  const first = await send();
  expect(first.signals).toEqual(['rolloutProgressed']);
  expect(await send()).toEqual({ signals: ['rolloutProgressed', 'rolloutProgressed'], runId: first.runId });
  await handle.terminate();
  const again = await send();
  expect(again.signals).toEqual(['rolloutProgressed']);
  expect(again.runId).not.toBe(first.runId);
  await handle.terminate();
});

test('a rollout runs to its end, and runs again to be undone', { timeout: 120_000 }, async () => {
  const server = sharedTemporal();
  await using connected = openClient(server);
  const api = await makeApi(rig.db);
  await using _worker = await runWorker(server, connected.taskQueue, { ...api, db: rig.db, wire: { tell: () => {} } });
  const deps = {
    db: rig.db,
    gatewayId: randomUUIDv7(),
    temporal: connected,
    registry: new Registry(),
    log: quiet,
    wire: localWire(),
  };
  await using relay = createRelay({ ...deps, pollMs: 20 });
  await makeDevices(rig.db, 3, { version: '1.0.0' });
  await makeRelease(rig.db, '1.0.0');
  const release = await makeRelease(rig.db, '2.0.0');
  const asked = { name: 'there and back', release, targets: { filter: 'name==*' }, gate: { soakSeconds: 0 } };
  const { id } = (await api.ask('POST', '/v1/rollouts', asked)).body;
  const states = async () => (await api.ask('GET', `/v1/rollouts/${id}`)).body.state;
  const becomes = (state: string) => eventually(async () => (await states()) === state, { withinMs: 30_000 });
  const succeed = async (version: string) => {
    await eventually(async () => (await rig.crowd.busy()).length === 3, { withinMs: 30_000 });
    await rig.crowd.succeed(await rig.crowd.busy(), version);
    const poke = { kind: 'signal' as const, name: 'rolloutProgressed', argument: {} };
    await appendToOutbox(rig.db, [{ workflowId: runRolloutId(id), ...poke }]);
    relay.wake();
  };
  await succeed('2.0.0');
  await becomes('FINISHED');
  const handle = connected.client.workflow.getHandle(runRolloutId(id));
  await handle.result();
  expect((await api.ask('POST', `/v1/rollouts/${id}/undo`)).status).toBe(202);
  await succeed('1.0.0');
  await becomes('UNDONE');
  expect(await handle.result()).toBe('UNDONE');
});

test('a Temporal without its store is given every rollout that has not ended', async () => {
  const [open, paused, over] = [await makeRollout(rig.db), await makeRollout(rig.db), await makeRollout(rig.db)];
  await rig.db.execute(sql`update rollouts set state = 'PAUSED' where id = ${paused}`);
  await rig.db.execute(sql`update rollouts set state = 'FINISHED', finished_at = now() where id = ${over}`);
  await appendOpenLifecycles(rig.db, lifecycles);
  const rows = await rig.db.execute(sql`
    select kind, workflow_id as "workflowId", name, argument from outbox where name = 'runRollout' order by id`);
  expect([...rows]).toEqual([start(open), start(paused)]);
});
