import type { Logger } from 'pino';
import { judgeFailure } from '../db/outcomes.ts';
import type { Availability } from './availability.ts';

/**
 * What became of one item. Committed: Postgres has it. Poisoned: Postgres refuses this one. Given up: nobody knows, or it
 * waited too long; whoever asked must not be told that it was taken.
 */
export type Written<Result> =
  | { outcome: 'committed'; result: Result }
  | { outcome: 'poisoned'; error: unknown }
  | { outcome: 'given-up'; detail: string };

export type Batches<Item, Result> = {
  add(item: Item): Promise<Written<Result>>;
  /** Items that are not settled yet. */
  readonly depth: number;
  /** Resolves when nothing is left to write. */
  drain(): Promise<void>;
};

export type BatchesDeps<Item, Result> = {
  name: string;
  /**
   * Writes all items in one transaction and gives one result for each, in their order. It must be safe to repeat: a
   * statement whose end is unknown is sent again.
   */
  write: (items: Item[]) => Promise<Result[]>;
  availability: Availability;
  log: Pick<Logger, 'error'>;
  /** How long an item waits at most for company while others are being written. */
  gatherMs?: number;
  itemsMax?: number;
  /** Unsettled items at most. Reading stops at half of it; what comes all the same is given up. */
  queueMax?: number;
  /** When a statement counts as hung. */
  deadlineMs?: number;
  /** How long an item is held at most while Postgres is away. */
  heldMaxMs?: number;
};

type Held<Item, Result> = { item: Item; since: number; settle: (written: Written<Result>) => void };

const conflictsMax = 10;

/**
 * Group commit. A lone item is written at once; those that come while a statement is under way gather and become the next
 * one. Statements follow one another, so items are written in the order in which they came. One that Postgres refuses
 * is found by halving and fails alone.
 */
export function createBatches<Item, Result>(deps: BatchesDeps<Item, Result>): Batches<Item, Result> {
  const { name, write, availability, log } = deps;
  const { gatherMs = 3, itemsMax = 500, queueMax = 20_000, deadlineMs = 5_000, heldMaxMs = 60_000 } = deps;
  type Batch = Held<Item, Result>[];
  let queue: Batch = [];
  let unsettled = 0;
  let flight: Promise<void> | undefined;

  function add(item: Item): Promise<Written<Result>> {
    if (unsettled >= queueMax)
      return Promise.resolve({ outcome: 'given-up', detail: 'too much is waiting to be written' });
    const { promise, resolve } = Promise.withResolvers<Written<Result>>();
    const settleItem = (written: Written<Result>) => {
      unsettled -= 1;
      if (unsettled === queueMax >> 2) availability.crowded(name, false);
      resolve(written);
    };
    queue.push({ item, since: performance.now(), settle: settleItem });
    unsettled += 1;
    if (unsettled === queueMax >> 1) availability.crowded(name, true);
    flight ??= fly();
    return promise;
  }

  async function fly(): Promise<void> {
    // What the same turn of the event loop brings goes along.
    await new Promise((resolve) => setImmediate(resolve));
    for (let [oldest] = queue; oldest; [oldest] = queue) {
      const batch = queue.slice(0, itemsMax);
      queue = queue.slice(itemsMax);
      await settle(batch);
      if (queue.length >= itemsMax || !queue[0]) continue;
      const gatheredMs = performance.now() - queue[0].since;
      if (gatheredMs < gatherMs) await pass(gatherMs - gatheredMs);
    }
    // In the same turn in which the queue was seen empty, or an item could come between and never leave.
    flight = undefined;
  }

  async function settle(batch: Batch): Promise<void> {
    const { held, results, error } = await attempt(batch);
    const [first] = held;
    if (!first) return;
    if (results) {
      for (const [index, { settle: give }] of held.entries()) give(outcomeOf(results, index));
    } else if (held.length === 1) {
      log.error({ err: error, queue: name }, 'the database refuses an item');
      first.settle({ outcome: 'poisoned', error });
    } else {
      const middle = held.length >> 1;
      await settle(held.slice(0, middle));
      await settle(held.slice(middle));
    }
  }

  /** Writes until the end is known. `held` are those of the batch that did not have to be given up meanwhile. */
  async function attempt(batch: Batch): Promise<{ held: Batch; results?: Result[]; error?: unknown }> {
    let held = batch;
    for (let conflicts = 0; ;) {
      const end = await writeOnce(held);
      if ('results' in end) return { held, results: end.results };
      if (end.failure === 'fault') return { held, error: end.error };
      if (end.failure === 'conflict') {
        conflicts += 1;
        await pass(Math.random() * 2 ** conflicts);
        if (conflicts < conflictsMax) continue;
      }
      held = giveUp(held, conflicts < conflictsMax ? performance.now() - heldMaxMs : Infinity);
      if (held.length === 0) return { held };
    }
  }

  type End = { results: Result[] } | { failure: 'conflict' | 'unknown' | 'fault'; error: unknown };

  /** Sends the statement once. Unknown comes back only when Postgres answers again, or somebody's patience has ended. */
  async function writeOnce(held: Batch): Promise<End> {
    const doubts = availability.doubts;
    const writing = write(held.map(({ item }) => item)).then(
      (results): End => ({ results }),
      (error: unknown): End => ({ failure: judgeFailure(error), error }),
    );
    let end = await within(writing, deadlineMs);
    if (!end) {
      availability.lost(new Error(`a statement of ${name} takes longer than ${deadlineMs} ms`));
      // Once Postgres answers again, the statement that hung usually ends too, and its own word is the better one.
      const back = availability.back().then(() => pass(100));
      end = await within(Promise.race([writing, back]), patienceOf(held));
      end ??= { failure: 'unknown', error: new Error('the statement hung') };
    }
    if ('results' in end) {
      return availability.doubts === doubts ? end : { failure: 'unknown', error: new Error('the commit is in doubt') };
    }
    if (end.failure === 'unknown') {
      availability.lost(end.error);
      await within(availability.back(), patienceOf(held));
    }
    return end;
  }

  const patienceOf = (held: Batch) => Math.max(0, (held[0]?.since ?? 0) + heldMaxMs - performance.now());

  /** Gives up what came before that time, and returns the rest. */
  function giveUp(held: Batch, before: number): Batch {
    for (const { since, settle: give } of held) {
      if (since <= before) give({ outcome: 'given-up', detail: 'the database has not taken it in time' });
    }
    return held.filter(({ since }) => since > before);
  }

  async function drain(): Promise<void> {
    await flight;
    // What came while the last was being written has started another.
    if (flight) await drain();
  }

  return {
    add,
    get depth() {
      return unsettled;
    },
    drain,
  };
}

function outcomeOf<Result>(results: Result[], index: number): Written<Result> {
  if (index >= results.length) return { outcome: 'poisoned', error: new Error('the statement gave no result for it') };
  // The index is within the array; where undefined is a result, it is a Result.
  return { outcome: 'committed', result: results[index] as Result };
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), ms)));
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

const pass = (ms: number) => new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), ms));
