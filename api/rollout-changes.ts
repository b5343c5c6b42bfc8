import { z } from '@hono/zod-openapi';
import type { RolloutPlan } from '../db/rollout-plan.ts';
import {
  growth,
  inFlightMax,
  limits,
  pace,
  perMinute,
  timerParts,
  timers,
  windowParts,
  windows,
} from './rollout-plans.ts';
import { gate, someGate } from './rollout-waves.ts';

/** What may change while it runs. */
const changeable = z.object({ gate, limits, pace, timers, windows: windows.optional() });

export const planChanges = z
  .strictObject({
    gate: someGate,
    limits,
    pace: z.strictObject({ inFlightMax, perMinute: perMinute.nullable(), growth: growth.nullable() }).partial(),
    timers: z.strictObject(timerParts).partial(),
    windows: z.strictObject(windowParts).partial().nullable(),
  })
  .partial()
  .refine((changes) => Object.keys(changes).length > 0, 'nothing is changed')
  .openapi('RolloutChanges', {
    description: 'A merge patch (RFC 7396): null takes away; a list is replaced as a whole',
  });

/** The plan with the changes, or the faults that it would then have. */
export function changePlan(plan: RolloutPlan, changes: z.infer<typeof planChanges>) {
  const { gate: gateNow, limits: limitsNow, pace: paceNow, timers: timersNow, windows: windowsNow } = plan;
  const now = { gate: gateNow, limits: limitsNow, pace: paceNow, timers: timersNow, windows: windowsNow };
  const judged = changeable.safeParse(mergePatch(now, changes));
  return judged.success ? { plan: { ...plan, windows: undefined, ...judged.data } } : { issues: judged.error.issues };
}

/** RFC 7396. */
function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Record<string, unknown> = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else merged[key] = mergePatch(merged[key], value);
  }
  return merged;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
