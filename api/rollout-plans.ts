import { z } from '@hono/zod-openapi';
import { isZone, type RolloutPlan } from '../db/rollout-plan.ts';
import { consequence, count, faultsOf, gateWith, share, targets, waves } from './rollout-waves.ts';
import { attributeName } from './schemas.ts';

const day = 86_400;
const limitsMax = 20;
const spansMax = 20;

export const failureKinds = ['FAILED', 'TIMED_OUT', 'REJECTED'] as const;

const limit = z
  .strictObject({
    kind: z
      .enum([...failureKinds, 'ANY'])
      .default('ANY')
      .openapi({
        description: 'A device that reverts counts as FAILED, a silent one as TIMED_OUT',
      }),
    count: count.optional(),
    percent: share(z.number().gt(0)).optional(),
    judgedMin: z
      .int()
      .min(0)
      .max(10_000_000)
      .default(10)
      .openapi({ description: 'Devices judged before the percentage means anything' }),
    then: consequence.default('pause'),
  })
  .superRefine((value, context) => {
    if (value.count === undefined && value.percent === undefined) faultsOf(context)([], 'it has a count or a percent');
  })
  .openapi('RolloutLimit');
export const limits = z.array(limit).max(limitsMax);

export const growth = z.strictObject({
  factor: z.number().gt(1).max(100),
  afterSuccesses: count,
  perMinuteMax: count,
});
export const inFlightMax = z
  .int()
  .min(1)
  .max(100_000)
  .openapi({ description: 'Devices told and not yet judged, at most' });
export const perMinute = count.openapi({ description: 'Devices told in a minute, at most' });
export const pace = z
  .strictObject({ inFlightMax: inFlightMax.default(100), perMinute: perMinute.optional(), growth: growth.optional() })
  .superRefine((value, context) => {
    if (value.growth && value.perMinute === undefined) faultsOf(context)(['growth'], 'only a perMinute can grow');
  })
  .prefault({});

export const timerParts = {
  startWithinSeconds: z
    .int()
    .min(1)
    .max(365 * day),
  endWithinSeconds: z
    .int()
    .min(1)
    .max(7 * day),
  verifyWithinSeconds: z.int().min(1).max(day),
  rolloutSeconds: z
    .int()
    .min(1)
    .max(366 * day),
};
export const timers = z
  .strictObject({
    startWithinSeconds: timerParts.startWithinSeconds
      .default(3 * day)
      .openapi({ description: 'From being told until the device has begun' }),
    endWithinSeconds: timerParts.endWithinSeconds
      .default(3_600)
      .openapi({ description: 'From the beginning to the end on the device' }),
    verifyWithinSeconds: timerParts.verifyWithinSeconds
      .default(600)
      .openapi({ description: 'From a report of success until the device reports the version' }),
    rolloutSeconds: timerParts.rolloutSeconds
      .default(30 * day)
      .openapi({ description: 'All of it; also how long it may wait to be begun' }),
  })
  .prefault({});

const retries = z
  .strictObject({
    max: z.int().min(0).max(9).default(0),
    backoffSeconds: z.int().min(1).max(day).default(60).openapi({ description: 'Doubles with each attempt' }),
    kinds: z
      .array(z.enum(failureKinds))
      .min(1)
      .refine((kinds) => new Set(kinds).size === kinds.length, 'a kind stands there twice')
      .default(['FAILED', 'TIMED_OUT']),
  })
  .prefault({});

const zone = z
  .string()
  .max(64)
  .refine(isZone, 'it is an IANA time zone, such as Europe/Berlin')
  .openapi({ example: 'Europe/Berlin' });
const time = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'it is a time of the day, such as 22:00');
const span = z.strictObject({
  days: z
    .array(z.int().min(1).max(7))
    .min(1)
    .refine((days) => new Set(days).size === days.length, 'a day stands there twice')
    .default([1, 2, 3, 4, 5, 6, 7])
    .openapi({ description: 'ISO weekdays on which it opens, 1 for Monday' }),
  from: time,
  to: time.openapi({ description: 'Not after `from`: on the next day' }),
});
export const windowParts = {
  zone: z
    .union([zone, z.strictObject({ attribute: attributeName, default: zone })])
    .openapi({ description: 'One for all, or the device’s attribute that names its own' }),
  open: z.array(span).min(1).max(spansMax),
};
export const windows = z.strictObject(windowParts).openapi('RolloutWindows', {
  description: 'When devices may be told, by the clock on the wall of the zone',
});

const planWith = (gate: ReturnType<typeof gateWith>) => ({
  targets,
  waves,
  gate,
  limits: limits.default([]),
  pace,
  timers,
  retries,
  windows: windows.optional(),
  priority: z
    .int()
    .min(-100)
    .max(100)
    .default(0)
    .openapi({ description: 'Between rollouts on one device: the higher is offered first' }),
  stopping: z
    .enum(['queued', 'all'])
    .default('queued')
    .openapi({ description: 'Whom a stop reaches: those that have not begun, or those in progress too' }),
  approval: z.boolean().default(false).openapi({ description: 'Waits for the consent of another credential' }),
  start: z
    .union([z.enum(['now', 'manual']), z.iso.datetime({ offset: true })])
    .default('now')
    .openapi({ description: 'When it is ready, on request, or at a time (RFC 3339)' }),
});

/** An update proves itself by staying up, and an operator is asked before the next wave when too many do not. */
export const releasePlan = planWith(
  gateWith({ succeededPercent: 95, soakSeconds: 300, manual: false, otherwise: 'pause' }),
);
/** Any other job ends with the verdicts that it gets. */
export const jobPlan = planWith(gateWith({ succeededPercent: 0, soakSeconds: 0, manual: false, otherwise: 'pause' }));

const plan = z.object(releasePlan);

/** The part of a request that is the plan. */
export function planOf(request: z.infer<typeof plan>): RolloutPlan {
  const { targets: devices, waves: parts, gate, limits: bounds, pace: speed, timers: times } = request;
  const { retries: attempts, windows: spans, priority, stopping, approval, start } = request;
  const rules = { gate, limits: bounds, pace: speed, timers: times, retries: attempts, windows: spans };
  // A body is JSON: what a wave's gate leaves out is not there, and is never undefined.
  return { targets: devices, waves: parts as RolloutPlan['waves'], ...rules, priority, stopping, approval, start };
}
