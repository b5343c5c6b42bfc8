/** A bucket of `perSecond` tokens that refills steadily and holds at most one second's worth, or `burst`. */
export type Bucket = {
  /** Takes one; false when none is left. */
  take(): boolean;
  /** Takes one that may have yet to drip; the milliseconds until it has. */
  borrow(): number;
  /** Nothing was taken from it for long enough to be full again. */
  isFull(): boolean;
};

export function createBucket(perSecond: number, { burst = perSecond, now = () => performance.now() } = {}): Bucket {
  let left = burst;
  let at = now();
  const refill = () => {
    const instant = now();
    left = Math.min(burst, left + ((instant - at) / 1000) * perSecond);
    at = instant;
  };
  return {
    take() {
      refill();
      if (left < 1) return false;
      left -= 1;
      return true;
    },
    borrow() {
      refill();
      left -= 1;
      return left >= 0 ? 0 : Math.ceil((-left / perSecond) * 1000);
    },
    isFull() {
      refill();
      return left >= burst;
    },
  };
}

/** One bucket per key, forgotten when full: a stranger costs nothing for long. */
export function createBuckets(perSecond: number, options: { burst?: number; keysMax?: number } = {}) {
  const { keysMax = 10_000, ...bucketOptions } = options;
  const buckets = new Map<string, Bucket>();
  return {
    take(key: string): boolean {
      let bucket = buckets.get(key);
      if (!bucket) {
        if (buckets.size >= keysMax) forgetFull(buckets);
        if (buckets.size >= keysMax) return false;
        bucket = createBucket(perSecond, bucketOptions);
        buckets.set(key, bucket);
      }
      return bucket.take();
    },
  };
}

function forgetFull(buckets: Map<string, Bucket>): void {
  for (const [key, bucket] of buckets) if (bucket.isFull()) buckets.delete(key);
}

/** A door that everybody passes at once while it is open; when it is shut, they wait in order. */
export type Door = { shut: () => void; open: () => void; isOpen: () => boolean; wait: () => Promise<void> };

export function createDoor(): Door {
  let opening: PromiseWithResolvers<void> | undefined;
  return {
    shut() {
      opening ??= Promise.withResolvers<void>();
    },
    open() {
      opening?.resolve();
      opening = undefined;
    },
    isOpen: () => opening === undefined,
    wait: () => opening?.promise ?? Promise.resolve(),
  };
}
