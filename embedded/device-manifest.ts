import { createHash, createPublicKey, verify, type KeyObject } from 'node:crypto';
import { z } from 'zod';

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
};

type ReleaseKey = { key: KeyObject; algorithm: 'ES256' | 'EdDSA' };

/** By RFC 7638 thumbprint. The key says by which algorithm it signs, never a manifest. */
export type ReleaseKeys = ReadonlyMap<string, ReleaseKey>;

/** The device does not do what it is told to, and says why. */
export class JobRefused extends Error {
  override name = 'JobRefused';

  constructor(code: string, message: string) {
    super(`${code}: ${message}`);
  }
}

/** Public keys in PEM: P-256 or Ed25519, others throw. */
export function readReleaseKeys(pems: string[]): ReleaseKeys {
  return new Map(
    pems.map((pem) => {
      const key = createPublicKey(pem);
      const { kty, crv, x, y } = key.export({ format: 'jwk' });
      if (crv !== 'P-256' && crv !== 'Ed25519') throw new Error(`a release key is P-256 or Ed25519, not ${crv ?? kty}`);
      const members = crv === 'P-256' ? { crv, kty, x, y } : { crv, kty, x };
      const thumbprint = createHash('sha256').update(JSON.stringify(members)).digest('base64url');
      return [thumbprint, { key, algorithm: crv === 'P-256' ? 'ES256' : 'EdDSA' }];
    }),
  );
}

/**
 * The content of a manifest, JWS in its compact form (RFC 7515), once its signature has proved right. Throws `JobRefused`.
 * Whether it fits is another question.
 */
export function openManifest(jws: string, keys: ReleaseKeys): Manifest {
  const parts = jws.split('.');
  const [header = '', payload = '', signature = ''] = parts;
  if (parts.length !== 3 || !parts.every((part) => /^[\w-]+$/.test(part))) throw malformed('not a compact JWS');
  const { alg, typ, kid, crit } = parseObject(header);
  const known = typeof kid === 'string' ? keys.get(kid) : undefined;
  if (!known) throw new JobRefused('UNKNOWN_KEY', `no release key ${String(kid)} on this device`);
  if (alg !== known.algorithm) throw new JobRefused('WRONG_ALGORITHM', `this key signs with ${known.algorithm}`);
  if (typ !== 'ota-manifest+jws') throw malformed(`typ is ${String(typ)}`);
  if (crit !== undefined) throw malformed('crit is not understood');
  const signed = Buffer.from(`${header}.${payload}`);
  if (!isSignedBy(known, signed, Buffer.from(signature, 'base64url')))
    throw new JobRefused('BAD_SIGNATURE', 'the signature is not that of the release key');
  const { data, error } = manifestSchema.safeParse(parseObject(payload));
  if (!data) throw malformed(error.issues.map(({ path, message }) => `${path.join('.')} ${message}`).join('; '));
  return data;
}

/** Throws `JobRefused` unless the manifest is for this device as it is now. */
export function requireFit(manifest: Manifest, device: Fit): void {
  const { product, hardware, expires, allowedFrom, securityCounter, downgrade } = manifest;
  if (product !== device.product) throw new JobRefused('WRONG_PRODUCT', `${product} is not ${device.product}`);
  if (!hardware.includes(device.hardware))
    throw new JobRefused('WRONG_HARDWARE', `${device.hardware} is none of ${hardware.join(', ')}`);
  if (Date.parse(expires) <= Date.now()) throw new JobRefused('EXPIRED', `the manifest was good until ${expires}`);
  if (allowedFrom && !allowedFrom.includes(device.version))
    throw new JobRefused('WRONG_VERSION', `${device.version} is none of ${allowedFrom.join(', ')}`);
  if (securityCounter < device.counter && !downgrade)
    throw new JobRefused('COUNTER_TOO_LOW', `${securityCounter} is below ${device.counter}`);
}

/** ES256 (RFC 7518 3.4): r and s side by side, not DER. EdDSA (RFC 8037): Ed25519 over the bytes themselves. */
function isSignedBy({ key, algorithm }: ReleaseKey, signed: Buffer, signature: Buffer): boolean {
  return algorithm === 'ES256'
    ? verify('sha256', signed, { key, dsaEncoding: 'ieee-p1363' }, signature)
    : verify(null, signed, key, signature);
}

const malformed = (why: string) => new JobRefused('MALFORMED_MANIFEST', why);

function parseObject(part: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString());
    if (typeof value === 'object' && value !== null) return { ...value };
  } catch {
    // said below
  }
  throw malformed('not JSON');
}
