import { z } from 'zod';
import { openJws, type PublicKeys, type Signed } from './device-jws.ts';
import { JobRefused } from './device-refusal.ts';

const manifestSchema = z.object({
  product: z.string().min(1),
  version: z.string().min(1),
  hardware: z.array(z.string()),
  artifact: z.object({
    sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits'),
    size: z.int().nonnegative(),
    name: z.string(),
  }),
  securityCounter: z.int().nonnegative(),
  allowedFrom: z.array(z.string()).optional(),
  downgrade: z.boolean().default(false),
  expires: z.iso.datetime({ offset: true }),
});

/** What a release key has signed about an artifact. */
export type Manifest = z.infer<typeof manifestSchema>;

/** What a device is, for a manifest to fit it. */
export type Fit = {
  product: string;
  hardware: string;
  /** What it runs now. */
  version: string;
  /** The lowest `securityCounter` that it takes. */
  counter: number;
  /** What its clock says. */
  nowMs: number;
};

const kind: Signed = {
  typ: 'ota-manifest+jws',
  algorithms: ['ES256', 'EdDSA'],
  signer: 'release',
  malformed: 'MALFORMED_MANIFEST',
  unknownKey: 'UNKNOWN_KEY',
  wrongAlgorithm: 'WRONG_ALGORITHM',
  badSignature: 'BAD_SIGNATURE',
};

/**
 * The content of a manifest, once its signature has proved right. Throws `JobRefused`. Whether it fits is another
 * question.
 */
export function openManifest(jws: string, keys: PublicKeys): Manifest {
  const { data, error } = manifestSchema.safeParse(openJws(jws, keys, kind));
  if (data) return data;
  const faults = error.issues.map(({ path, message }) => `${path.join('.')} ${message}`);
  throw new JobRefused(kind.malformed, faults.join('; '));
}

/** Throws `JobRefused` unless the manifest is for this device as it is now. */
export function requireFit(manifest: Manifest, device: Fit): void {
  const { product, hardware, expires, allowedFrom, securityCounter, downgrade } = manifest;
  if (product !== device.product) throw new JobRefused('WRONG_PRODUCT', `${product} is not ${device.product}`);
  if (!hardware.includes(device.hardware))
    throw new JobRefused('WRONG_HARDWARE', `${device.hardware} is none of ${hardware.join(', ')}`);
  if (Date.parse(expires) <= device.nowMs) throw new JobRefused('EXPIRED', `the manifest was good until ${expires}`);
  if (allowedFrom && !allowedFrom.includes(device.version))
    throw new JobRefused('WRONG_VERSION', `${device.version} is none of ${allowedFrom.join(', ')}`);
  if (securityCounter < device.counter && !downgrade)
    throw new JobRefused('COUNTER_TOO_LOW', `${securityCounter} is below ${device.counter}`);
}
