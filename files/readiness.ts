/** Each resolves when its part is there, and rejects when it is not. */
export type PartProbes = Record<string, () => Promise<void>>;

const probeWithinMs = 2_000;
const rememberMs = 500;

/** The names of the parts that are missing. However often it is asked, the parts are asked twice a second at most. */
export function createReadiness(probes: PartProbes): () => Promise<string[]> {
  let last: { at: number; missing: Promise<string[]> } | undefined;
  return () => {
    if (!last || performance.now() - last.at > rememberMs) last = { at: performance.now(), missing: ask(probes) };
    return last.missing;
  };
}

async function ask(probes: PartProbes): Promise<string[]> {
  const parts = await Promise.all(
    Object.entries(probes).map(async ([name, probe]) => ((await isThere(probe)) ? [] : [name])),
  );
  return parts.flat();
}

async function isThere(probe: () => Promise<void>): Promise<boolean> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error('no answer')), probeWithinMs);
  try {
    await Promise.race([probe(), late.promise]);
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}
