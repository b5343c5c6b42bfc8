import type { MiddlewareHandler } from 'hono';
import type { Api } from './app.ts';
import { Problem } from './problem.ts';

const bucketsMax = 10_000;

/**
 * Holds each API key to a rate, with a second's worth of it at once. Every process counts for itself: the limit protects
 * the process, it is no quota.
 */
export function limitRates({ perSecond }: { perSecond: number }): MiddlewareHandler<Api> {
  const buckets = new Map<string, { left: number; at: number }>();
  return async (c, next) => {
    const now = performance.now();
    const bucket = buckets.get(c.var.credential) ?? { left: perSecond, at: now };
    bucket.left = Math.min(perSecond, bucket.left + ((now - bucket.at) / 1_000) * perSecond);
    bucket.at = now;
    if (!buckets.has(c.var.credential) && buckets.size >= bucketsMax) buckets.clear();
    buckets.set(c.var.credential, bucket);
    if (bucket.left < 1) throw tooMany(perSecond, (1 - bucket.left) / perSecond);
    bucket.left -= 1;
    return next();
  };
}

const tooMany = (perSecond: number, seconds: number) =>
  new Problem('too-many-requests', `A key may ask ${perSecond} times a second.`, {
    headers: { 'Retry-After': String(Math.max(1, Math.ceil(seconds))) },
  });
