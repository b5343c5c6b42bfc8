import { z } from '@hono/zod-openapi';
import type { Gate } from '../db/rollout-plan.ts';
import { deviceFilter, deviceName, groupName } from './schemas.ts';

const day = 86_400;
const devicesMax = 1_000;
const groupsMax = 50;
const wavesMax = 50;

export const count = z.int().min(1).max(10_000_000);
/** A percentage, in hundredths at the finest. */
export const share = (min: z.ZodNumber) => min.max(100).multipleOf(0.01);
export const consequence = z.enum(['pause', 'stop', 'undo']);
type Fault = (path: (string | number)[], message: string) => void;
type Refinement = { addIssue(issue: { code: 'custom'; path: (string | number)[]; message: string }): void };

/** Tells of faults in the value that is refined. */
export const faultsOf =
  (context: Refinement): Fault =>
  (path, message) =>
    context.addIssue({ code: 'custom', path, message });

/** Whom a rollout is for. */
export const targets = z
  .strictObject({
    devices: z.array(deviceName).min(1).max(devicesMax).optional(),
    groups: z.array(groupName).min(1).max(groupsMax).optional(),
    filter: deviceFilter.optional(),
    continuous: z
      .boolean()
      .default(false)
      .openapi({ description: 'Devices that come to match while it runs join its last open wave' }),
  })
  .superRefine(({ devices, groups, filter }, context) => {
    const fault = faultsOf(context);
    if (!devices && !groups && filter === undefined) fault([], 'it names devices, groups or a filter');
    for (const [list, names = []] of Object.entries({ devices, groups })) {
      const seen = new Set<string>();
      for (const [index, name] of names.entries()) {
        if (seen.has(name.toLowerCase())) fault([list, index], 'the name stands there twice');
        seen.add(name.toLowerCase());
      }
    }
  })
  .openapi('RolloutTargets', { description: 'The devices of any of these parts; blocked ones never are' });

const gateParts = {
  succeededPercent: share(z.number().min(0)).openapi({
    description: 'Share of the devices of the wave, without those that it does not fit',
  }),
  soakSeconds: z
    .int()
    .min(0)
    .max(30 * day)
    .openapi({ description: 'How long they must then stay connected and keep reporting the version' }),
  manual: z.boolean().openapi({ description: 'Waits for an operator besides' }),
  otherwise: consequence.openapi({ description: 'What follows when the share cannot be reached any more' }),
};
export const gate = z.strictObject(gateParts);
export const someGate = gate.partial();
export const gateWith = (usual: Gate) =>
  z
    .strictObject({
      succeededPercent: gateParts.succeededPercent.default(usual.succeededPercent),
      soakSeconds: gateParts.soakSeconds.default(usual.soakSeconds),
      manual: gateParts.manual.default(usual.manual),
      otherwise: gateParts.otherwise.default(usual.otherwise),
    })
    .prefault({});

const wave = z
  .strictObject({
    count: count.optional(),
    percent: share(z.number().gt(0)).optional().openapi({ description: 'Of all targets' }),
    filter: deviceFilter.optional(),
    gate: someGate.optional().openapi({ description: 'Where it differs from the gate of the rollout' }),
  })
  .openapi('RolloutWave');

export const waves = z
  .array(wave)
  .min(1)
  .max(wavesMax)
  .default([{}])
  .superRefine((list, context) => {
    const fault = faultsOf(context);
    for (const [index, { count: size, percent, filter }] of list.entries()) {
      const rules = [size, percent, filter].filter((rule) => rule !== undefined).length;
      if (rules > 1) fault([index], 'a wave is by count, by percent or by filter');
      if (rules === 0 && index < list.length - 1)
        fault([index], 'only the last wave is without a rule: it takes the rest');
    }
    // In hundredths, so that a third three times is not too much.
    const hundredths = list.reduce((sum, { percent }) => sum + Math.round((percent ?? 0) * 100), 0);
    const last = list.length - 1;
    if (hundredths > 10_000) fault([], 'the percents are more than 100 in sum');
    if (list[last]?.count !== undefined) fault([last, 'count'], 'the last wave takes all that are left over');
    if (list[last]?.percent !== undefined && hundredths < 10_000) {
      fault(
        [last, 'percent'],
        'the last wave takes all that are left over: leave it out, or let the percents be 100 in sum',
      );
    }
  });
