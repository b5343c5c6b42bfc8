import { createPublicKey, hash, randomBytes } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { findRotationPolicy, putRotationPolicy, type RotationPolicyRow } from '../../db/rotation-policies.ts';
import { certificates } from '../../db/schema.ts';
import { makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import type { Credentials } from '../support/gateway.ts';
import type { Rig } from './rig.ts';

export type Away = Credentials & { deviceId: string; name: string; pair: KeyPair };

const dayMs = 86_400_000;

/** A device whose certificate, as its TLS shows it, ended so many days ago. */
export async function makeAway({ fleet, db }: Rig, daysAgo = 10): Promise<Away> {
  const { deviceId, name, certificateId: first } = await fleet.makeDevice();
  const pair = makeKeyPair();
  const publicKey = createPublicKey(pair.publicKeyPem).export({ type: 'spki', format: 'der' });
  const certificateId = randomBytes(32).toString('hex');
  const subject = { device: name };
  const now = new Date(Date.now() - (90 + daysAgo) * dayMs);
  const request = { profile: 'device', certificateId, subject, publicKey, lifetimeMs: 90 * dayMs, now } as const;
  const { chainPem, serial, fingerprint, pem, notBefore, notAfter } = await fleet.authority.issue(request);
  const row = { id: certificateId, serial, fingerprint, pem, notBefore, notAfter, issuedAt: notBefore };
  const ended = { ...row, spkiSha256: hash('sha256', publicKey, 'buffer'), activatedAt: notBefore };
  await db.update(certificates).set(ended).where(eq(certificates.id, first));
  return { deviceId, name, pair, certificateId, certificate: chainPem, privateKey: pair.privateKeyPem };
}

/** For thirty days without an operator, unless told otherwise; by the policy for all devices, or by one of another name. */
export async function permitRecovery({ db }: Rig, part: Partial<RotationPolicyRow> = {}): Promise<void> {
  const found = await findRotationPolicy(db, 'default');
  if (!found) throw new Error('the default policy is there from the start');
  const { updatedAt: _, ...policy } = found;
  const open = { recoverWithinDays: 30, recoveryApproval: false, perMinute: 10_000 };
  await putRotationPolicy(db, 'system/test', { ...policy, ...open, ...part });
}
