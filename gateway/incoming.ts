import type { Limits } from './limits.ts';
import { createBucket, type Door } from './throttle.ts';

export type Incoming = {
  /** Works on one publish, in its turn. */
  take(work: () => Promise<void>): void;
  /** Whether something is being worked on, or waits: the connection is not read then, and must not be called silent. */
  readonly busy: boolean;
  /** Whether something waits: the connection must not be read then, so that what waits stays little. */
  readonly full: boolean;
  /** Calls back whenever nothing waits any more. */
  onRoom(callback: () => void): void;
  close(): void;
};

/**
 * The publishes of one connection, in order: a bounded number at once, no faster than its rate, none while the door is
 * shut. What waits here is not acknowledged, and no more is read from its socket until nothing does. One that waits
 * behind a shut door for longer than `holdMaxMs` is given up, and with it the connection.
 */
export function createIncoming(
  { inFlightMax, publishesPerSecond, holdMaxMs }: Limits,
  door: Door,
  giveUp: () => void,
): Incoming {
  const bucket = createBucket(publishesPerSecond);
  const queue: (() => Promise<void>)[] = [];
  let running = 0;
  let letting = false;
  let closed = false;
  let readOn = () => {};

  async function letIn(): Promise<void> {
    if (letting) return;
    letting = true;
    while (queue.length > 0 && running < inFlightMax) {
      if (!door.isOpen()) await waitFor(door);
      const waitMs = bucket.borrow();
      if (waitMs > 0) await pass(waitMs);
      const work = closed ? undefined : queue.shift();
      if (!work) break;
      running += 1;
      void work().finally(() => {
        running -= 1;
        void letIn();
      });
    }
    letting = false;
    if (queue.length === 0 && !closed) readOn();
  }

  async function waitFor(shut: Door): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const tooLong = new Promise<boolean>((resolve) => (timer = setTimeout(() => resolve(true), holdMaxMs)));
    const waited = await Promise.race([shut.wait().then(() => false), tooLong]);
    clearTimeout(timer);
    if (waited) giveUp();
  }

  return {
    take(work) {
      queue.push(work);
      void letIn();
    },
    get busy() {
      return !closed && (running > 0 || queue.length > 0);
    },
    get full() {
      return !closed && queue.length > 0;
    },
    onRoom(callback) {
      readOn = callback;
    },
    close() {
      closed = true;
      queue.length = 0;
    },
  };
}

const pass = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
