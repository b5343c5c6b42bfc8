import { createHash } from 'node:crypto';
import { z } from 'zod';
import { openJws, type PublicKeys, type Signed } from './device-jws.ts';
import { JobRefused } from './device-refusal.ts';

const orderSchema = z.object({
  device: z.string(),
  job: z.string(),
  execution: z.int(),
  manifest: z.string(),
  issuedAt: z.int().nonnegative(),
  expiresAt: z.int().nonnegative(),
});

/** What the device is about to do: an order must be for this and nothing else. */
export type Intended = {
  device: string;
  jobId: string;
  executionNumber: number;
  /** The manifest's JWS, as it came. */
  manifest: string;
  /** What its clock says. */
  nowMs: number;
};

const kind: Signed = {
  typ: 'ota-order+jws',
  algorithms: ['ES256'],
  signer: 'order',
  malformed: 'MALFORMED_ORDER',
  unknownKey: 'UNKNOWN_ORDER_KEY',
  wrongAlgorithm: 'WRONG_ORDER_ALGORITHM',
  badSignature: 'BAD_ORDER_SIGNATURE',
};

/** How far its clock and the server's may be apart, beyond what an order's own lifetime leaves. */
const skewMs = 600_000;

/**
 * Throws `JobRefused` unless the orchestrator has ordered this very device, in this very attempt, to install what this
 * manifest is about, and a short time ago.
 */
export function requireOrder(jws: string | undefined, keys: PublicKeys, intended: Intended): void {
  if (jws === undefined) throw new JobRefused('MISSING_ORDER', 'nobody has ordered this device to install it');
  const { data: order, error } = orderSchema.safeParse(openJws(jws, keys, kind));
  if (!order) {
    const faults = error.issues.map(({ path, message }) => `${path.join('.')} ${message}`);
    throw new JobRefused(kind.malformed, faults.join('; '));
  }
  const { device, jobId, executionNumber, manifest, nowMs } = intended;
  if (order.device !== device) throw new JobRefused('ORDER_FOR_OTHER_DEVICE', `${order.device} is not ${device}`);
  if (order.job !== jobId) throw new JobRefused('ORDER_FOR_OTHER_JOB', `${order.job} is not ${jobId}`);
  if (order.execution !== executionNumber)
    throw new JobRefused('ORDER_FOR_OTHER_ATTEMPT', `${order.execution} is not ${executionNumber}`);
  if (order.manifest !== createHash('sha256').update(manifest).digest('hex'))
    throw new JobRefused('ORDER_FOR_OTHER_MANIFEST', `${order.manifest} is not the digest of the manifest`);
  const saying = (seconds: number) => `${instantOf(seconds * 1_000)}, and the clock says ${instantOf(nowMs)}`;
  if (order.issuedAt * 1_000 > nowMs + skewMs)
    throw new JobRefused('ORDER_NOT_YET', `it is of ${saying(order.issuedAt)}`);
  if (order.expiresAt * 1_000 <= nowMs - skewMs)
    throw new JobRefused('ORDER_EXPIRED', `it was good until ${saying(order.expiresAt)}`);
}

/** An instant that is out of any calendar is said as it is: the reason must not fail. */
const instantOf = (ms: number) => (Math.abs(ms) <= 8.64e15 ? new Date(ms).toISOString() : String(ms));
