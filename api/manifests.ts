import { z } from 'zod';
import { ManifestFault } from '../pki/manifests.ts';
import { JsonFault, parseJson } from './json.ts';

const name = (pattern: RegExp, rule: string) => z.string().regex(pattern, rule);

/** What a device reports as a key of its software, and what stands in filters. */
export const product = name(
  /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/,
  'a product is 1 to 128 of A-Z a-z 0-9 _ . : - and starts with a letter or digit',
);
export const version = name(
  /^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$/,
  'a version is 1 to 64 of A-Z a-z 0-9 _ . + - and starts with a letter or digit',
);
export const sha256 = name(/^[0-9a-f]{64}$/, 'a digest is 64 lower-case hexadecimal digits');
/** It may become a file's name on a device: never a path. */
const fileName = name(
  /^[A-Za-z0-9][A-Za-z0-9_.+=@-]{0,127}$/,
  'a name is 1 to 128 of A-Z a-z 0-9 _ . + = @ - and starts with a letter or digit',
);
const hardware = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[^\p{C}]+$/u, 'it holds a character that cannot be seen');

const listMax = 200;

/** What a release key says about an artifact. Fields that nobody here knows may stand in it, for the devices. */
const manifest = z.looseObject({
  product,
  version,
  hardware: z.array(hardware).min(1).max(listMax),
  artifact: z.object({ sha256, size: z.int().nonnegative(), name: fileName }),
  /** What may replace what is decided by this number alone. Up to 2^53 - 1. */
  securityCounter: z.int().nonnegative(),
  allowedFrom: z.array(version).min(1).max(listMax).optional(),
  downgrade: z.literal(true).optional(),
  expires: z.iso.datetime({ offset: true, error: 'it is an RFC 3339 time, such as 2027-01-01T00:00:00Z' }),
});

export type Manifest = z.infer<typeof manifest>;

/** Reads what was signed. It is I-JSON, so that no device reads it in another way. Throws `ManifestFault`. */
export function readManifest(payload: Uint8Array): Manifest {
  const { data, error } = manifest.safeParse(parse(payload));
  if (data) return data;
  const faults = error.issues.map(({ path, message }) => `${path.join('.') || 'the manifest'}: ${message}`);
  throw new ManifestFault('invalid', faults.join('; '));
}

function parse(payload: Uint8Array): unknown {
  try {
    return parseJson(payload);
  } catch (error) {
    if (error instanceof JsonFault) throw new ManifestFault('invalid', error.message);
    throw error;
  }
}
