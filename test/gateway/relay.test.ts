import { randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { appendToOutbox } from '../../db/outbox.ts';
import { renewRelayLeases, releaseRelayLeases } from '../../db/relay-leases.ts';
import { commands, outbox } from '../../db/schema.ts';
import { createRelay } from '../../gateway/relay.ts';
import { localWire } from '../../gateway/wire.ts';
import { sendCommandId } from '../../workflows/send-command.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { quiet } from './ear.ts';
import { makeCommand, makeDevice } from './rows.ts';
import { ownTemporal, sharedTemporal } from '../support/temporal.ts';
import { openClient } from './temporal.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await makeDatabase();
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await database.db.delete(outbox);
  await database.db.execute(sql`update relay_leases set gateway_id = null, leased_until = '-infinity'`);
});

type Options = Partial<Parameters<typeof createRelay>[0]>;
function openRelay(options: Options = {}) {
  const registry = new Registry();
  const connected = openClient(sharedTemporal());
  const deps = {
    db: database.db,
    gatewayId: randomUUIDv7(),
    temporal: connected,
    registry,
    log: quiet,
    wire: localWire(),
    pollMs: 50,
  };
  const relay = createRelay({ ...deps, ...options });
  return {
    ...connected,
    relay,
    registry,
    async [Symbol.asyncDispose]() {
      await relay[Symbol.asyncDispose]();
      await connected[Symbol.asyncDispose]();
    },
  };
}

const start = (id: string) => ({
  kind: 'start' as const,
  workflowId: sendCommandId(id),
  name: 'sendCommand',
  argument: { commandId: id },
});
const signal = (workflowId: string, name: string, argument: unknown = {}) => ({
  kind: 'signal' as const,
  workflowId,
  name,
  argument,
});
const depth = async () => (await database.db.select().from(outbox)).length;
const emptied = (withinMs?: number) =>
  eventually(async () => (await depth()) === 0, withinMs === undefined ? {} : { withinMs });

/** The signals that the workflow was sent, in order, as `name argument`. */
async function signalsOf({ client }: { client: ReturnType<typeof openClient>['client'] }, workflowId: string) {
  const { events } = await client.workflow.getHandle(workflowId).fetchHistory();
  return (events ?? []).flatMap(({ workflowExecutionSignaledEventAttributes: signaled }) => {
    const data = signaled?.input?.payloads?.[0]?.data;
    return signaled ? [`${signaled.signalName} ${Buffer.from(data ?? []).toString()}`] : [];
  });
}

describe('the outbox', () => {
  test('starts a workflow once, however often its row is sent, and not again when it has run', async () => {
    await using rig = openRelay();
    const id = randomUUIDv7();
    await appendToOutbox(database.db, [start(id)]);
    rig.relay.wake();
    await emptied();
    const handle = rig.client.workflow.getHandle(sendCommandId(id));
    const { runId, staticSummary } = {
      runId: (await handle.describe()).runId,
      staticSummary: await (await handle.describe()).staticSummary(),
    };
    expect(staticSummary).toBe(`Command ${id}`);
    await appendToOutbox(database.db, [start(id)]);
    await emptied();
    expect((await handle.describe()).runId).toBe(runId);
    await handle.terminate();
    await appendToOutbox(database.db, [start(id)]);
    await emptied();
    expect((await handle.describe()).status.name).toBe('TERMINATED');
  });

  test('keeps the order for each workflow, and a thousand equal pokes become a few signals', async () => {
    const id = randomUUIDv7();
    const workflowId = sendCommandId(id);
    const rows = [start(id)];
    const signals = [signal(workflowId, 'fact', { n: 1 }), signal(workflowId, 'fact', { n: 2 })];
    const pokes = Array.from({ length: 1_000 }, () => signal(workflowId, 'commandProgressed'));
    await appendToOutbox(database.db, [...rows, ...signals, ...pokes, signal(workflowId, 'fact', { n: 3 })]);
    await using rig = openRelay({ perShard: 2_000 });
    await emptied();
    expect(await signalsOf(rig, workflowId)).toEqual([
      'fact {"n":1}',
      'fact {"n":2}',
      'commandProgressed {}',
      'fact {"n":3}',
    ]);
  });

  test('takes a signal to a workflow that is over, or never was, for told', async () => {
    await using rig = openRelay();
    await appendToOutbox(database.db, [signal(sendCommandId(randomUUIDv7()), 'commandProgressed')]);
    rig.relay.wake();
    await emptied();
  });

  test('is not held up by one workflow that takes nothing', async () => {
    await using rig = openRelay({ perShard: 2, fullScanEveryMs: 60_000 });
    const [bad, good] = [randomUUIDv7(), randomUUIDv7()];
    const unknown = { ...start(bad), name: 'aTypeOfAnotherRelease' };
    await appendToOutbox(database.db, [
      unknown,
      ...Array.from({ length: 5 }, (_, n) => signal(sendCommandId(bad), 'fact', { n })),
    ]);
    await appendToOutbox(
      database.db,
      Array.from({ length: 60 }, () => start(randomUUIDv7())),
    );
    await appendToOutbox(database.db, [start(good)]);
    const waited = performance.now() + 2_500;
    await eventually(async () => (await depth()) === 6 && performance.now() > waited);
    const left = await database.db.select().from(outbox);
    expect(new Set(left.map(({ workflowId }) => workflowId))).toEqual(new Set([sendCommandId(bad)]));
    expect((await rig.client.workflow.getHandle(sendCommandId(good)).describe()).status.name).toBe('RUNNING');
  });

  test('is sent at once when the wire says so, as it does after a wake at a gateway whose shard it is not', async () => {
    const wire = localWire();
    const patient = { wire, pollMs: 60_000 };
    await using owner = openRelay(patient);
    const leased = sql`select from relay_leases where gateway_id is not null`;
    await eventually(async () => expect(await database.db.execute(leased)).toHaveLength(64));
    await using other = openRelay(patient);
    for (const hint of [() => wire.tell({ outbox: true }), other.relay.wake]) {
      const id = randomUUIDv7();
      await appendToOutbox(database.db, [start(id)]);
      hint();
      await emptied();
      await owner.client.workflow.getHandle(sendCommandId(id)).terminate();
    }
  });

  test('is measured: how much waits, and for how long', async () => {
    await database.db.execute(sql`
      insert into outbox (shard, kind, workflow_id, name, argument, created_at)
      select 0, 'signal', 'x', 'y', '{}', now() - interval '90 s' from generate_series(1, 7)`);
    await using rig = openRelay({ temporal: openClient({ address: '127.0.0.1:1', namespace: 'longhaul' }) });
    const read = async (name: string) => (await rig.registry.getSingleMetric(name)?.get())?.values[0]?.value ?? 0;
    expect(await read('longhaul_outbox_depth')).toBe(7);
    expect(await read('longhaul_outbox_oldest_seconds')).toBeGreaterThanOrEqual(90);
  });
});

describe('the leases', () => {
  test('give each of two relays its half, and the survivor all when one dies', async () => {
    const { db } = database;
    const [one, two] = [randomUUIDv7(), randomUUIDv7()];
    expect(await renewRelayLeases(db, one, 60_000)).toHaveLength(64);
    expect(await renewRelayLeases(db, two, 300)).toHaveLength(0);
    // The newcomer is seen by its row; until then nothing is freed for it.
    await db.execute(sql`insert into gateways (id, address) values (${two}::uuid, 'test')`);
    const kept = await renewRelayLeases(db, one, 60_000);
    const taken = await renewRelayLeases(db, two, 300);
    expect([kept.length, taken.length]).toEqual([32, 32]);
    expect(new Set([...kept, ...taken]).size).toBe(64);
    await db.execute(sql`delete from gateways`);
    await eventually(async () => (await renewRelayLeases(db, one, 60_000)).length === 64);
    await releaseRelayLeases(db, one);
    expect(await renewRelayLeases(db, two, 300)).toHaveLength(64);
  });

  test('let two relays share the work, and nothing is started twice', async () => {
    await using one = openRelay();
    await using two = openRelay();
    const ids = Array.from({ length: 100 }, () => randomUUIDv7());
    await appendToOutbox(database.db, ids.map(start));
    two.relay.wake();
    await emptied();
    const described = await Promise.all(ids.map((id) => one.client.workflow.getHandle(sendCommandId(id)).describe()));
    expect(described.every(({ status }) => status.name === 'RUNNING')).toBe(true);
  });
});

describe('while Temporal is away', () => {
  test('rows wait, no time is burnt, and when it is back without its store the open lifecycles start again', async () => {
    await using own = await ownTemporal();
    const device = await makeDevice(database.db);
    const open = await makeCommand(database.db, [device]);
    const finished = await makeCommand(database.db, [device]);
    await database.db.execute(sql`update commands set finished_at = now() where id = ${finished.id}::uuid`);
    await using rig = openRelay({ temporal: openClient(own), backoffMaxMs: 300, callMaxMs: 2_000 });
    await emptied();
    await own.kill();

    await appendToOutbox(database.db, [signal(sendCommandId(open.id), 'commandProgressed')]);
    rig.relay.wake();
    const before = process.cpuUsage();
    const untilMs = performance.now() + 1_500;
    await eventually(() => {
      rig.relay.wake();
      return performance.now() > untilMs;
    });
    const { user, system } = process.cpuUsage(before);
    expect(user + system).toBeLessThan(1_000_000);
    expect(await depth()).toBe(1);

    await own.deleteStore();
    await own.start();
    await emptied(20_000);
    await using client = openClient(own);
    const started = async () => {
      const handle = client.client.workflow.getHandle(sendCommandId(open.id));
      return handle.describe().then(
        () => true,
        () => false,
      );
    };
    await eventually(started, { withinMs: 20_000 });
    await expect(client.client.workflow.getHandle(sendCommandId(finished.id)).describe()).rejects.toThrow(/not found/i);
    expect(await database.db.select().from(commands)).toHaveLength(2);
  });
});
