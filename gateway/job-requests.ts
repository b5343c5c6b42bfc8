import { z } from 'zod';
import { isRecord, scrubText } from './payloads.ts';

/**
 * What devices ask of jobs, as real clients write it: numbers as text, what is false or 0 left out or not, null for what is
 * not there, status details that break every rule. Only what decides something is ever a reason to refuse.
 */
const tokenBytesMax = 64;
const intMax = 2_147_483_647;
/** Seven days, AWS's limit. */
const stepMinutesMax = 10_080;
const detailsMax = 64;
const keyLengthMax = 128;
const valueLengthMax = 1_024;

const clientToken = z
  .unknown()
  .optional()
  .transform((value, context): string | number | undefined => {
    if (value === undefined || value === null) return undefined;
    if (typeof value === 'number') return value;
    if (typeof value === 'string' && Buffer.byteLength(value) <= tokenBytesMax) return value;
    context.addIssue({ code: 'custom', message: `must be a text of at most ${tokenBytesMax} bytes` });
    return z.NEVER;
  });

/** A number, or its text; 0, null and nothing at all mean that there is none. */
const whole = ({ max, orMinusOne = false }: { max: number; orMinusOne?: boolean }) =>
  z
    .unknown()
    .optional()
    .transform((value, context): number | null => {
      const number = typeof value === 'string' ? Number(value) : (value ?? 0);
      if (number === 0) return null;
      if (Number.isInteger(number) && isWithin(Number(number))) return Number(number);
      context.addIssue({ code: 'custom', message: `must be a whole number from 1 to ${max}` });
      return z.NEVER;
      function isWithin(given: number) {
        return (given >= 1 && given <= max) || (orMinusOne && given === -1);
      }
    });

const flag = (absent: boolean) =>
  z
    .unknown()
    .optional()
    .transform((value) => (absent ? value !== false && value !== 'false' : value === true || value === 'true'));

const statusDetails = z.unknown().optional().transform(readDetails);

export const pendingRequest = z.object({ clientToken });

export const startNextRequest = z.object({
  clientToken,
  statusDetails,
  stepTimeoutInMinutes: whole({ max: stepMinutesMax, orMinusOne: true }),
});

export const describeRequest = z.object({
  clientToken,
  executionNumber: whole({ max: intMax }),
  includeJobDocument: flag(true),
});

export const updateRequest = z.object({
  clientToken,
  status: z.enum(['IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED'], {
    error: 'must be IN_PROGRESS, SUCCEEDED, FAILED or REJECTED',
  }),
  statusDetails,
  expectedVersion: whole({ max: intMax }),
  executionNumber: whole({ max: intMax }),
  includeJobExecutionState: flag(false),
  includeJobDocument: flag(false),
  stepTimeoutInMinutes: whole({ max: stepMinutesMax, orMinusOne: true }),
});

export type PendingRequest = z.infer<typeof pendingRequest>;
export type StartNextRequest = z.infer<typeof startNextRequest>;
export type DescribeRequest = z.infer<typeof describeRequest>;
export type UpdateRequest = z.infer<typeof updateRequest>;

/** A map of texts, or null to keep what there is. Scalars become text, what is nested its JSON; nothing is refused. */
function readDetails(value: unknown): Record<string, string> | null {
  if (!isRecord(value)) return null;
  const entries = Object.entries(value)
    .filter(([, entry]) => entry !== null)
    .slice(0, detailsMax)
    .map(([key, entry]): [string, string] => {
      const text = scrubText(typeof entry === 'object' ? JSON.stringify(entry) : entry, valueLengthMax);
      return [key.replaceAll(/[^a-zA-Z0-9:_-]/g, '_').slice(0, keyLengthMax), text ?? ''];
    });
  return Object.fromEntries(entries);
}
