import { isGrpcServiceError, WorkflowExecutionAlreadyStartedError, WorkflowNotFoundError } from '@temporalio/client';
import type { Client } from '@temporalio/client';
import type { Logger } from 'pino';
import { Gauge, type Registry } from 'prom-client';
import type { Database } from '../db/client.ts';
import { adoptNamespace, appendOpenLifecycles, deleteFromOutbox, listOutbox, measureOutbox } from '../db/outbox.ts';
import type { OutboxRow } from '../db/outbox.ts';
import { releaseRelayLeases, renewRelayLeases } from '../db/relay-leases.ts';
import { lifecycles, startOptions } from './lifecycles.ts';
import type { Wire } from './wire.ts';

export type RelayDeps = {
  db: Database;
  gatewayId: string;
  temporal: { client: Client; namespace: string; taskQueue: string };
  wire: Pick<Wire, 'tell' | 'hear'>;
  registry: Registry;
  log: Pick<Logger, 'warn' | 'error' | 'info'>;
  pollMs?: number;
  leaseMs?: number;
  perShard?: number;
  /** Workflows that are told at a time. */
  concurrency?: number;
  /** When a call to Temporal counts as failed. */
  callMaxMs?: number;
  /** How often, at least, Temporal is asked whether it still has its store. */
  namespaceEveryMs?: number;
  /** How often a shard is read from its start, for rows that were committed out of the order of their ids. */
  fullScanEveryMs?: number;
  /** The longest pause after a failure. */
  backoffMaxMs?: number;
};

export type Relay = {
  /** There may be something to send: call it after a commit that appended. */
  wake: () => void;
  [Symbol.asyncDispose](): Promise<void>;
};

const backoffMinMs = 100;
/** Of the outbox, as the schema has them. */
const shardsInAll = 64;
/** Pokes of this time go to the other gateways as one hint. */
const hintEveryMs = 20;
const countMax = 100_000;

/** gRPC codes that speak of Temporal as a whole and not of one workflow: CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED. */
const outageCodes = [1, 4, 8, 14, 16];

class TemporalAway extends Error {}

/**
 * Tells Temporal what the outbox holds: at least once, in order for each workflow, equal signals as one. A row is
 * deleted after the call that told it, and no transaction is open during a call. While Temporal is away rows wait, and
 * nobody waits for them. A Temporal that comes back without its store is given every open lifecycle anew.
 */
export function createRelay(deps: RelayDeps): Relay {
  const { db, gatewayId, temporal, wire, registry, log } = deps;
  const { pollMs = 500, leaseMs = 15_000, perShard = 32, concurrency = 16 } = deps;
  const { callMaxMs = 5_000, backoffMaxMs = 5_000, namespaceEveryMs = 10_000, fullScanEveryMs = 1_000 } = deps;
  const { client, namespace, taskQueue } = temporal;
  /** Workflows that took no message, by id: left alone for a while, and no cursor goes past their first row. */
  const resting = new Map<string, { failures: number; until: number; shard: number; firstId: number }>();
  const nap = createNap();
  let shards: number[] = [];
  let leasedAt = -Infinity;
  let namespaceSeenAt = -Infinity;
  let lastIds = new Map<number, number>();
  let scannedAt = 0;
  let failures = 0;
  let stopped = false;
  let hinting = false;
  const gauges = measure(db, registry);

  async function run(): Promise<void> {
    while (!stopped) {
      try {
        await holdLeases();
        await checkNamespace();
        const more = await pass();
        failures = 0;
        if (!more) await nap.sleep(pollMs);
      } catch (error) {
        if (failures === 0) log.warn({ err: error }, 'the outbox cannot be sent; rows wait');
        failures += 1;
        namespaceSeenAt = -Infinity;
        await nap.rest(Math.min(backoffMaxMs, backoffMinMs * 2 ** failures) * (0.5 + Math.random() / 2));
      }
    }
  }

  async function holdLeases(): Promise<void> {
    if (performance.now() - leasedAt < leaseMs / 3) return;
    const asked = performance.now();
    shards = await renewRelayLeases(db, gatewayId, leaseMs);
    leasedAt = asked;
  }

  /** Sends what waits, once. True when there may be more. */
  async function pass(): Promise<boolean> {
    const rows = await listOutbox(db, cursors(), { perShard, except: restingNow() });
    if (rows.length === 0) return false;
    for (const { shard, id } of rows) lastIds.set(shard, Math.max(id, lastIds.get(shard) ?? 0));
    const queues = [...Map.groupBy(rows, ({ workflowId }) => workflowId).values()];
    const done: number[] = [];
    let away: unknown;
    const worker = async () => {
      for (let queue = queues.shift(); queue && !away && leaseHolds(); queue = queues.shift()) {
        await sendInOrder(queue, done).catch((error: unknown) => (away ??= error));
      }
    };
    await Promise.all(Array.from({ length: concurrency }, worker));
    await deleteFromOutbox(db, done);
    if (away || queues.length > 0) lastIds = new Map();
    if (away) throw away;
    return true;
  }

  const leaseHolds = () => performance.now() < leasedAt + leaseMs - callMaxMs;

  /** Where to read on in each shard; from the start every second, for rows that were committed out of their order. */
  function cursors() {
    if (performance.now() - scannedAt > fullScanEveryMs) {
      lastIds = new Map();
      scannedAt = performance.now();
    }
    const held = new Map<number, number>();
    for (const { shard, firstId } of resting.values()) held.set(shard, Math.min(firstId, held.get(shard) ?? firstId));
    return shards.map((shard) => ({
      shard,
      after: Math.min(lastIds.get(shard) ?? 0, (held.get(shard) ?? Infinity) - 1),
    }));
  }

  function restingNow(): string[] {
    const now = performance.now();
    return [...resting].filter(([, { until }]) => until > now).map(([workflowId]) => workflowId);
  }

  async function sendInOrder(rows: OutboxRow[], done: number[]): Promise<void> {
    const [first] = rows;
    for (const { row, ids } of merge(rows)) {
      try {
        await send(row);
      } catch (error) {
        if (isOutage(error)) throw new TemporalAway('Temporal is away', { cause: error });
        rest(row, ids, error);
        return;
      }
      done.push(...ids);
    }
    if (first) resting.delete(first.workflowId);
  }

  function rest({ workflowId, shard }: OutboxRow, ids: number[], error: unknown): void {
    const { failures: before = 0 } = resting.get(workflowId) ?? {};
    const until = performance.now() + Math.min(60_000, 500 * 2 ** before);
    resting.set(workflowId, { failures: before + 1, until, shard, firstId: Math.min(...ids) });
    log.error({ err: error, workflowId }, 'a workflow takes no message; its later ones wait');
  }

  async function send({ kind, workflowId, name, argument }: OutboxRow): Promise<void> {
    try {
      await client.withDeadline(Date.now() + callMaxMs, async () => {
        if (kind === 'signal') return client.workflow.getHandle(workflowId).signal(name, argument);
        const options = startOptions(name, argument);
        if (!options) throw new Error(`${name} is no workflow of this release`);
        const { poke, ...how } = options;
        const starting = { ...how, workflowId, taskQueue, args: [argument] };
        if (poke === undefined) return client.workflow.start(name, starting);
        return client.workflow.signalWithStart(name, { ...starting, signal: poke, signalArgs: [{}] });
      });
    } catch (error) {
      const over = error instanceof WorkflowNotFoundError || error instanceof WorkflowExecutionAlreadyStartedError;
      if (!over) throw error;
    }
  }

  /** A namespace with another id is another store: the lifecycles that it should hold are started from their rows. */
  async function checkNamespace(): Promise<void> {
    if (performance.now() - namespaceSeenAt < namespaceEveryMs) return;
    const { namespaceInfo } = await client.withDeadline(Date.now() + callMaxMs, () =>
      client.workflowService.describeNamespace({ namespace }),
    );
    const namespaceId = namespaceInfo?.id;
    if (namespaceId && (await adopt(namespaceId)))
      log.warn({ namespaceId }, "Temporal's store is new: open lifecycles start again");
    namespaceSeenAt = performance.now();
  }

  const adopt = (namespaceId: string) =>
    db.transaction(async (tx) => {
      const isNew = await adoptNamespace(tx, namespaceId);
      if (isNew) await appendOpenLifecycles(tx, lifecycles);
      return isNew;
    });

  /** What was appended here may be in a shard of another gateway's. */
  function wake(): void {
    nap.wake();
    if (hinting || shards.length === shardsInAll) return;
    hinting = true;
    setTimeout(() => {
      hinting = false;
      wire.tell({ outbox: true });
    }, hintEveryMs).unref();
  }

  wire.hear((hint) => {
    if ('outbox' in hint) nap.wake();
  });
  const running = run();
  return {
    wake,
    async [Symbol.asyncDispose]() {
      stopped = true;
      nap.end();
      await running;
      await releaseRelayLeases(db, gatewayId).catch(() => {});
      for (const gauge of gauges) registry.removeSingleMetric(gauge);
    },
  };
}

/** Of equal signals to one workflow the last stands for all: one poke says as much as ten. */
function merge(rows: OutboxRow[]): { row: OutboxRow; ids: number[] }[] {
  const merged = new Map<string, { row: OutboxRow; ids: number[] }>();
  for (const row of rows) {
    const key = JSON.stringify([row.kind, row.name, row.argument]);
    const ids = [...(merged.get(key)?.ids ?? []), row.id];
    merged.delete(key);
    merged.set(key, { row, ids });
  }
  return [...merged.values()];
}

function isOutage(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (isGrpcServiceError(cause)) return outageCodes.includes(cause.code);
  }
  return false;
}

function createNap() {
  let woken = false;
  let ended = false;
  let rouse: (() => void) | undefined;
  const wait = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ended ? 0 : ms);
      rouse = () => (clearTimeout(timer), resolve());
    });
  return {
    /** Until woken. A call that came before it counts. */
    async sleep(ms: number) {
      if (!woken) await wait(ms);
      woken = false;
    },
    /** All of the time, whoever calls. */
    async rest(ms: number) {
      const until = performance.now() + ms;
      while (!ended && performance.now() < until) await wait(until - performance.now());
    },
    wake: () => {
      woken = true;
      rouse?.();
    },
    end() {
      ended = true;
      rouse?.();
    },
  };
}

function measure(db: Database, registry: Registry): string[] {
  let measured: { at: number; value: Promise<{ depth: number; oldestSeconds: number } | undefined> } | undefined;
  const current = () => {
    if (measured && performance.now() < measured.at + 1_000) return measured.value;
    measured = { at: performance.now(), value: measureOutbox(db, countMax).catch(() => undefined) };
    return measured.value;
  };
  const gauge = (name: string, help: string, read: (measure: { depth: number; oldestSeconds: number }) => number) =>
    new Gauge({
      name,
      help,
      registers: [registry],
      async collect() {
        const value = await current();
        if (value) this.set(read(value));
      },
    });
  gauge('longhaul_outbox_depth', `Messages to Temporal that wait, up to ${countMax}`, ({ depth }) => depth);
  gauge('longhaul_outbox_oldest_seconds', 'Age of the oldest message to Temporal that waits', (m) => m.oldestSeconds);
  return ['longhaul_outbox_depth', 'longhaul_outbox_oldest_seconds'];
}
