import { createHash, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { JobRefused } from '../../embedded/device-refusal.ts';
import type { Software } from '../../embedded/device.ts';

export type Content = { sha256: string; size: number; bytes: Buffer };

/** It signs manifests, or orders. */
export type ReleaseKey = {
  publicKeyPem: string;
  privateKey: KeyObject;
  kid: string;
  /** A compact JWS, made by hand so that it can be wrong in any way. */
  sign(payload: unknown, header?: object): string;
};

export const product = 'pump-firmware';
export const hardware = 'rev-c';

/** What a device of the tests leaves the factory with. */
export const softwareOf = (releaseKey: ReleaseKey, orderKey: ReleaseKey): Software => ({
  product,
  hardware,
  version: '1.0.0',
  releaseKeys: [releaseKey.publicKeyPem],
  orderKeys: [orderKey.publicKeyPem],
});

export function contentOf(bytes: Buffer): Content {
  return { sha256: createHash('sha256').update(bytes).digest('hex'), size: bytes.length, bytes };
}

/** What a manifest of the tests says, unless it is told otherwise. */
export const manifestOf = ({ sha256, size }: Pick<Content, 'sha256' | 'size'>, change: object = {}) => ({
  product,
  version: '2.0.0',
  hardware: [hardware, 'rev-d'],
  artifact: { sha256, size, name: 'pump.bin' },
  securityCounter: 0,
  expires: '2099-01-01T00:00:00Z',
  ...change,
});

export function makeReleaseKey(algorithm: 'ES256' | 'EdDSA' = 'ES256'): ReleaseKey {
  const { publicKey, privateKey } =
    algorithm === 'ES256' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : generateKeyPairSync('ed25519');
  const { crv, kty, x, y } = publicKey.export({ format: 'jwk' });
  const members = algorithm === 'ES256' ? { crv, kty, x, y } : { crv, kty, x };
  const kid = createHash('sha256').update(JSON.stringify(members)).digest('base64url');
  return {
    publicKeyPem: publicKey.export({ type: 'spki', format: 'pem' }),
    privateKey,
    kid,
    sign(payload, header = {}) {
      const protectedHeader = { alg: algorithm, typ: 'ota-manifest+jws', kid, ...header };
      const signed = `${encode(protectedHeader)}.${encode(payload)}`;
      return `${signed}.${signatureOf(signed, privateKey)}`;
    },
  };
}

const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

function signatureOf(signed: string, key: KeyObject): string {
  const algorithm = key.asymmetricKeyType === 'ed25519' ? null : 'sha256';
  return sign(algorithm, Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url');
}

/** The code with which the device refuses, or undefined. */
export function refusal(work: () => unknown): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof JobRefused) return error.message.split(':')[0] ?? '';
    throw error;
  }
}
