import type { Logger } from 'pino';

export type Periodic = {
  /** Works soon, not only when its time has come. */
  wake(): void;
  /** Resolves when it does not work any more. */
  stop(): Promise<void>;
};

export type PeriodicDeps = {
  name: string;
  everyMs: number;
  /** True asks to be called again at once. */
  work: () => Promise<boolean | void>;
  log: Pick<Logger, 'warn'>;
};

/** Works again and again, never twice at once. A failure is said once, until it works again, and stops nothing. */
export function createPeriodic({ name, everyMs, work, log }: PeriodicDeps): Periodic {
  let stopped = false;
  let woken = false;
  let failing = false;
  let nap: PromiseWithResolvers<void> | undefined;

  async function run(): Promise<void> {
    for (;;) {
      const again = await attempt();
      if (stopped) return;
      if (!again && !woken) await rest();
      woken = false;
    }
  }

  async function rest(): Promise<void> {
    nap = Promise.withResolvers();
    const timer = setTimeout(nap.resolve, everyMs);
    await nap.promise;
    clearTimeout(timer);
  }

  async function attempt(): Promise<boolean> {
    try {
      const again = await work();
      failing = false;
      return again === true;
    } catch (error) {
      if (!failing && !stopped) log.warn({ err: error }, `${name} failed; it is tried again`);
      failing = true;
      return false;
    }
  }

  const running = run();
  return {
    wake() {
      if (failing) return;
      woken = true;
      nap?.resolve();
    },
    async stop() {
      stopped = true;
      nap?.resolve();
      await running;
    },
  };
}
