import type { Logger } from 'pino';
import { judgeFailure } from '../db/outcomes.ts';
import type { Availability } from './availability.ts';

export type RoundsDeps<Item> = {
  name: string;
  /** Works on these together. They wait, and are worked on again, when Postgres was away or in conflict. */
  work: (items: Item[]) => Promise<void>;
  itemsMax: number;
  availability: Availability;
  log: Pick<Logger, 'error'>;
};

/** Works in rounds, never two at once, on what was added since the last one began; what was added twice counts once. */
export function createRounds<Item>({ name, work, itemsMax, availability, log }: RoundsDeps<Item>) {
  const waiting = new Set<Item>();
  let running: Promise<void> | undefined;

  async function run(): Promise<void> {
    for (let round = take(); round.length > 0; round = take()) {
      try {
        await work(round);
      } catch (error) {
        const failure = judgeFailure(error);
        if (failure === 'fault') {
          log.error({ err: error }, `${name} failed`);
          continue;
        }
        for (const item of round) waiting.add(item);
        if (failure === 'unknown') availability.lost(error);
        await availability.back();
      }
    }
    running = undefined;
  }

  function take(): Item[] {
    const round = [...waiting.values().take(itemsMax)];
    for (const item of round) waiting.delete(item);
    return round;
  }

  return {
    add(item: Item): void {
      waiting.add(item);
      running ??= run();
    },
    /** Resolves when nothing is left to work on. */
    drain: async (): Promise<void> => running,
  };
}
