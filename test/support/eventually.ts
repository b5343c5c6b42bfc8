import { setTimeout as delay } from 'node:timers/promises';

/** A probe may look for something or assert something; one whose `undefined` could mean either is refused. */
type Unambiguous<Result> = undefined extends Result
  ? [Result] extends [void]
    ? unknown
    : { 'for "not yet" return null or false, or throw': never }
  : unknown;

/**
 * Repeats `probe` until it neither throws nor returns false or null, and gives what it returned. After `withinMs` it
 * throws what the probe threw last.
 */
export async function eventually<Probe extends () => unknown>(
  probe: Probe & Unambiguous<Awaited<ReturnType<Probe>>>,
  options?: { withinMs?: number },
): Promise<Exclude<Awaited<ReturnType<Probe>>, false | null>>;
export async function eventually(probe: () => unknown, { withinMs = 10_000 } = {}): Promise<unknown> {
  const deadline = Date.now() + withinMs;
  for (let pauseMs = 10; ; pauseMs = Math.min(pauseMs * 1.5, 100)) {
    const last = await attempt(probe);
    if ('value' in last && last.value !== false && last.value !== null) return last.value;
    if (Date.now() > deadline) {
      throw 'error' in last ? last.error : new Error(`still ${String(last.value)} after ${withinMs} ms`);
    }
    await delay(pauseMs);
  }
}

async function attempt(probe: () => unknown): Promise<{ value: unknown } | { error: unknown }> {
  try {
    return { value: await probe() };
  } catch (error) {
    return { error };
  }
}
