import { createPublicKey, type KeyObject } from 'node:crypto';
import { CompactSign, compactVerify } from 'jose';
import { algorithmOf, describeKey, type ReleaseKey } from './release-keys.ts';

/** Why a text is not taken as a manifest. The message never quotes it. */
export class ManifestFault extends Error {
  override name = 'ManifestFault';
  readonly fault: 'malformed' | 'wrong-type' | 'unknown-key' | 'wrong-algorithm' | 'bad-signature' | 'invalid';

  constructor(fault: ManifestFault['fault'], message: string) {
    super(message);
    this.fault = fault;
  }
}

/** A manifest travels inside a job document, which has 32 KB. */
export const manifestLengthMax = 16_384;

const type = 'ota-manifest+jws';

/** Signs these very bytes: JWS in its compact form (RFC 7515). */
export async function signManifest(payload: Uint8Array, privateKey: KeyObject): Promise<string> {
  const { id: kid } = await describeKey(privateKey);
  return new CompactSign(payload).setProtectedHeader({ alg: algorithmOf(privateKey), typ: type, kid }).sign(privateKey);
}

/**
 * The bytes that were signed, and the key that signed them. The header names the key and has no say in anything else: it
 * holds `alg`, `typ` and `kid` and nothing more, and the algorithm is the key's own. Throws `ManifestFault`.
 */
export async function openManifest<Key extends ReleaseKey>(
  jws: string,
  findKey: (id: string) => Promise<Key | undefined>,
): Promise<{ payload: Uint8Array; key: Key }> {
  const { alg, typ, kid, ...rest } = readHeader(jws);
  if (typ !== type) throw new ManifestFault('wrong-type', `the header's typ is not ${type}`);
  if (Object.keys(rest).length > 0) throw new ManifestFault('malformed', 'the header holds more than alg, typ and kid');
  const key = typeof kid === 'string' ? await findKey(kid) : undefined;
  if (!key) throw new ManifestFault('unknown-key', 'the header names no release key that is known');
  if (alg !== key.algorithm)
    throw new ManifestFault('wrong-algorithm', `the key signs with ${key.algorithm}, and only so`);
  try {
    const { payload } = await compactVerify(jws, createPublicKey(key.publicKeyPem), { algorithms: [key.algorithm] });
    return { payload, key };
  } catch {
    throw new ManifestFault('bad-signature', 'the signature is not that of the key over this manifest');
  }
}

function readHeader(jws: string): Record<string, unknown> {
  if (jws.length > manifestLengthMax)
    throw new ManifestFault('malformed', `it has more than ${manifestLengthMax} characters`);
  const parts = jws.split('.');
  const [header = ''] = parts;
  if (parts.length !== 3 || !parts.every(isBase64url)) {
    throw new ManifestFault('malformed', 'it is not a signed JWS in its compact form');
  }
  try {
    const value: unknown = JSON.parse(Buffer.from(header, 'base64url').toString());
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  } catch {
    // said below
  }
  throw new ManifestFault('malformed', 'its header is not a JSON object');
}

/** In the one way to write these bytes: nobody makes two texts of one signature. An empty part is none. */
const isBase64url = (part: string): boolean =>
  part !== '' && Buffer.from(part, 'base64url').toString('base64url') === part;
