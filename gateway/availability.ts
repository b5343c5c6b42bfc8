import type { Logger } from 'pino';

export type Availability = {
  /** Whether Postgres is away, as far as anybody here has noticed. */
  readonly away: boolean;
  /** How many commits were reported done without their standby. It only grows: compare before and after. */
  readonly doubts: number;
  /** A statement failed or hung: reading stops, and Postgres is asked until it answers. */
  lost(error: unknown): void;
  /** A commit was reported done that may yet be lost. */
  doubt(): void;
  /** A queue has become full, or has room again: reading stops while any is full. */
  crowded(queue: string, full: boolean): void;
  /** Resolves when Postgres answers; at once while it does, and never once this is stopped. */
  back(): Promise<void>;
  stop(): void;
};

export type AvailabilityDeps = {
  /** Rejects, or hangs, while Postgres takes no writes. */
  probe: () => Promise<void>;
  pause: () => void;
  resume: () => void;
  log: Pick<Logger, 'warn' | 'info'>;
  probeEveryMs?: number;
  /** A probe that hangs longer is given a companion, on another connection. */
  probeMaxMs?: number;
};

/** Knows whether Postgres is there, and stops the reading of sockets while it is not or while a queue is full. */
export function createAvailability(deps: AvailabilityDeps): Availability {
  const { probe, pause, resume, log, probeEveryMs = 200, probeMaxMs = 5_000 } = deps;
  const full = new Set<string>();
  let outage: PromiseWithResolvers<void> | undefined;
  let doubts = 0;
  let paused = false;
  let stopped = false;

  function apply(): void {
    const wanted = outage !== undefined || full.size > 0;
    if (wanted === paused) return;
    paused = wanted;
    if (wanted) pause();
    else resume();
  }

  async function watch(): Promise<void> {
    const since = performance.now();
    while (!stopped && !(await answers())) await pass(probeEveryMs);
    log.info({ awayMs: Math.round(performance.now() - since) }, 'the database is back');
    outage?.resolve();
    outage = undefined;
    apply();
  }

  async function answers(): Promise<boolean> {
    const answered = probe().then(
      () => true,
      () => false,
    );
    return Promise.race([answered, pass(probeMaxMs).then(() => false)]);
  }

  return {
    get away() {
      return outage !== undefined;
    },
    get doubts() {
      return doubts;
    },
    lost(error) {
      if (outage || stopped) return;
      log.warn({ err: error }, 'the database is away');
      outage = Promise.withResolvers();
      apply();
      void watch();
    },
    doubt() {
      doubts += 1;
    },
    crowded(queue, isFull) {
      if (isFull) full.add(queue);
      else full.delete(queue);
      apply();
    },
    // Whoever tries again after each outage would otherwise do so for ever, and let nothing else run.
    back: () => (stopped ? new Promise(() => {}) : (outage?.promise ?? Promise.resolve())),
    stop() {
      stopped = true;
    },
  };
}

const pass = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms).unref());
