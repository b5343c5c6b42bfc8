import { array, assert, asyncProperty, boolean, record } from 'fast-check';
import { setTimeout as pass } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { createAvailability, type Availability } from '../../gateway/availability.ts';
import { createBatches } from '../../gateway/batches.ts';
import { eventually } from '../support/eventually.ts';
import { quiet } from './ear.ts';

/** An error as postgres.js gives it. */
const failure = (code: string) => Object.assign(new Error(code), { code });
const gone = () => failure('ECONNREFUSED');

/** A Postgres that is there or away, and takes what it is told to take. */
function rig(options: { write?: (items: number[], nth: number) => Promise<void>; limits?: object } = {}) {
  const store = { there: true, paused: false, probes: 0 };
  const statements: number[][] = [];
  const availability: Availability = createAvailability({
    probe: async () => {
      store.probes += 1;
      if (!store.there) throw gone();
    },
    pause: () => (store.paused = true),
    resume: () => (store.paused = false),
    log: quiet,
    probeEveryMs: 5,
  });
  const batches = createBatches<number, number>({
    name: 'test',
    availability,
    log: quiet,
    async write(items) {
      statements.push(items);
      if (!store.there) throw gone();
      await options.write?.(items, statements.length);
      return items.map((item) => item * 2);
    },
    ...options.limits,
  });
  return { store, statements, availability, batches };
}

const range = (count: number) => Array.from({ length: count }, (_, index) => index);

describe('a batch', () => {
  test('of one is written at once', async () => {
    const { batches } = rig({ limits: { gatherMs: 60_000 } });
    expect(await batches.add(21)).toEqual({ outcome: 'committed', result: 42 });
  });

  test('gathers what comes while another is being written, in order and never above its limit', async () => {
    const { batches, statements } = rig({ write: () => pass(20), limits: { itemsMax: 40 } });
    const first = batches.add(-1);
    await eventually(() => statements.length === 1);
    const results = await Promise.all([first, ...range(100).map((item) => batches.add(item))]);
    expect(statements.map((items) => items.length)).toEqual([1, 40, 40, 20]);
    expect(statements.flat()).toEqual([-1, ...range(100)]);
    expect(results.map((written) => written.outcome === 'committed' && written.result)).toEqual([
      -2,
      ...range(100).map((item) => item * 2),
    ]);
  });

  test('gives every item its own result, and only the poisoned ones fail, wherever they stand', async () => {
    await assert(
      asyncProperty(array(record({ bad: boolean(), turn: boolean() }), { maxLength: 60 }), async (plan) => {
        const isBad = (item: number) => plan[item]?.bad === true;
        const { batches } = rig({
          limits: { itemsMax: 16, gatherMs: 0 },
          write: async (items) => {
            if (items.some(isBad)) throw failure('22021');
          },
        });
        const written: ReturnType<typeof batches.add>[] = [];
        for (const [item, { turn }] of plan.entries()) {
          written.push(batches.add(item));
          if (turn) await Promise.resolve();
        }
        const outcomes = await Promise.all(written);
        expect(outcomes.map(({ outcome }) => outcome === 'poisoned')).toEqual(plan.map(({ bad }) => bad));
        outcomes.forEach((outcome, item) => {
          if (outcome.outcome === 'committed') expect(outcome.result).toBe(item * 2);
        });
        expect(batches.depth).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('is tried again after a deadlock, and blames nobody', async () => {
    const { batches, statements } = rig({
      write: async (_, nth) => {
        if (nth <= 3) throw failure(nth === 1 ? '40P01' : '40001');
      },
    });
    expect(await batches.add(1)).toMatchObject({ outcome: 'committed' });
    expect(statements).toEqual([[1], [1], [1], [1]]);
  });
});

describe('while Postgres is away', () => {
  test('what came is held, reading stops, and all is written when it is back', async () => {
    const { batches, store, availability } = rig();
    store.there = false;
    let settled = 0;
    const all = range(10).map((item) => batches.add(item).finally(() => (settled += 1)));
    await eventually(() => availability.away && store.probes > 3);
    expect({ settled, paused: store.paused }).toEqual({ settled: 0, paused: true });
    store.there = true;
    expect((await Promise.all(all)).every(({ outcome }) => outcome === 'committed')).toBe(true);
    expect({ paused: store.paused, away: availability.away }).toEqual({ paused: false, away: false });
  });

  test('what was held too long is given up, and never called committed', async () => {
    const { batches, store } = rig({ limits: { heldMaxMs: 50 } });
    store.there = false;
    expect(await batches.add(1)).toMatchObject({ outcome: 'given-up' });
  });

  test.each(['57P01', '57P03', '25006', '08006', '53300', 'CONNECTION_CLOSED'])(
    'a statement that ends with %s has no known end, and is sent again',
    async (code) => {
      const { batches, statements } = rig({
        write: async (_, nth) => {
          if (nth === 1) throw failure(code);
        },
      });
      expect(await batches.add(1)).toEqual({ outcome: 'committed', result: 2 });
      expect(statements).toEqual([[1], [1]]);
    },
  );

  test('a statement that hangs is not acknowledged until its end is known', async () => {
    const hung = Promise.withResolvers<void>();
    const { batches, store, availability } = rig({
      limits: { deadlineMs: 30 },
      write: (_, nth) => (nth === 1 ? hung.promise : Promise.resolve()),
    });
    let settled = false;
    const written = batches.add(1).finally(() => (settled = true));
    store.there = true;
    await pass(10);
    expect(settled).toBe(false);
    await eventually(() => availability.away || settled);
    hung.resolve();
    expect(await written).toEqual({ outcome: 'committed', result: 2 });
  });

  test('a commit that skipped its standby is not believed', async () => {
    const { batches, statements, availability } = rig({
      write: async (_, nth) => {
        if (nth === 1) availability.doubt();
      },
    });
    expect(await batches.add(1)).toMatchObject({ outcome: 'committed' });
    expect(statements).toEqual([[1], [1]]);
  });
});

test('a queue that fills stops the reading, and what comes above its bound is given up', async () => {
  const gate = Promise.withResolvers<void>();
  const { batches, store } = rig({ write: () => gate.promise, limits: { queueMax: 100 } });
  const all = range(120).map((item) => batches.add(item));
  expect(store.paused).toBe(true);
  gate.resolve();
  const outcomes = (await Promise.all(all)).map(({ outcome }) => outcome);
  expect(outcomes.filter((outcome) => outcome === 'given-up')).toHaveLength(20);
  expect(outcomes.slice(0, 100).every((outcome) => outcome === 'committed')).toBe(true);
  expect(store.paused).toBe(false);
});

test('nobody is left behind, whenever he comes', async () => {
  const { batches } = rig({ limits: { gatherMs: 0 } });
  // Each turn comes a little later after the settling of the one before it.
  for (let turns = 0; turns < 40; turns += 1) {
    await batches.add(turns);
    for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
    expect(await batches.add(turns)).toMatchObject({ outcome: 'committed' });
  }
});
