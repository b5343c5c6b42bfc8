import { createHash, createHmac, randomBytes, type KeyObject } from 'node:crypto';
import { insertArtifact } from '../../db/artifacts.ts';
import type { Db } from '../../db/client.ts';
import { signManifest } from '../../pki/manifests.ts';
import { describeKey, makeReleaseKey, readPrivateKey, type ReleaseKey } from '../../pki/release-keys.ts';
import type { Ask } from './api.ts';

export type Signer = ReleaseKey & { privateKey: KeyObject };

/** A key of a release engineer; nobody knows it yet. */
export async function makeSigner(algorithm: 'ES256' | 'EdDSA' = 'ES256'): Promise<Signer> {
  const privateKey = readPrivateKey(makeReleaseKey(algorithm));
  return { ...(await describeKey(privateKey)), privateKey };
}

export async function registerSigner(ask: Ask, signer: Signer, products?: string[]): Promise<void> {
  const { publicKeyPem } = signer;
  const answer = await ask('POST', '/v1/release-keys', { name: 'test', publicKeyPem, ...(products && { products }) });
  if (answer.status !== 201) throw new Error(answer.text);
}

/** Noted as stored; its bytes are nowhere. */
export async function noteArtifact(db: Db, size = 1_000): Promise<{ sha256: string; size: number }> {
  const sha256 = createHash('sha256').update(randomBytes(32)).digest('hex');
  await insertArtifact(db, 'system/test', { sha256, size });
  return { sha256, size };
}

let versions = 0;

/** What a manifest says, each with a version of its own. */
export const manifestOf = (artifact: { sha256: string; size: number }, changes: object = {}) => ({
  product: 'pump',
  version: `1.0.${(versions += 1)}`,
  hardware: ['rev-a'],
  artifact: { ...artifact, name: 'pump.bin' },
  securityCounter: 5,
  expires: '2999-01-01T00:00:00Z',
  ...changes,
});

export const sign = (manifest: object | string, signer: Signer): Promise<string> =>
  signManifest(Buffer.from(typeof manifest === 'string' ? manifest : JSON.stringify(manifest)), signer.privateKey);

const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** Not a signature of the key but a MAC under its public half: what a careless verifier takes for one. */
export function forge(manifest: object, { id, publicKeyPem }: Signer): string {
  const signed = `${encode({ alg: 'HS256', typ: 'ota-manifest+jws', kid: id })}.${encode(manifest)}`;
  return `${signed}.${createHmac('sha256', publicKeyPem).update(signed).digest('base64url')}`;
}

/** With this header, and a signature of something else. */
export function withHeader(jws: string, header: object): string {
  const [, payload = '', signature = ''] = jws.split('.');
  return `${encode(header)}.${payload}.${signature}`;
}
