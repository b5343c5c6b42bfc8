import { createPublicKey, randomBytes, randomUUIDv7 } from 'node:crypto';
import type { Database } from '../db/client.ts';
import { certificates, devices } from '../db/schema.ts';
import type { Authority } from '../pki/authority.ts';
import { makeKeyPair } from '../pki/keys.ts';
import type { LoadDevice } from './load/reports.ts';

const lifetimeMs = 90 * 86_400_000;

/** Devices as if they had enrolled and connected once, without the time that this takes. */
export async function makeDevices(
  { db, authority }: { db: Database; authority: Authority },
  count: number,
): Promise<LoadDevice[]> {
  const made = await Promise.all(Array.from({ length: count }, () => makeDevice(authority)));
  for (let start = 0; start < count; start += 500) {
    const some = made.slice(start, start + 500);
    await db.insert(devices).values(some.map(({ device }) => device));
    await db.insert(certificates).values(some.map(({ certificate }) => certificate));
  }
  return made.map(({ credentials }) => credentials);
}

async function makeDevice(authority: Authority) {
  const deviceId = randomUUIDv7();
  const name = `bench-${randomBytes(6).toString('hex')}`;
  const certificateId = randomBytes(32).toString('hex');
  const { publicKeyPem, privateKeyPem: privateKey } = makeKeyPair();
  const publicKey = createPublicKey(publicKeyPem).export({ type: 'spki', format: 'der' });
  const subject = { device: name };
  const issued = await authority.issue({ profile: 'device', certificateId, subject, publicKey, lifetimeMs });
  const { authorityId, serial, fingerprint, pem, notBefore, notAfter, spkiSha256 } = issued;
  const row = { authorityId, serial, fingerprint, pem, notBefore, notAfter, spkiSha256, subject: name };
  return {
    device: { id: deviceId, name, state: 'ACTIVE' as const },
    certificate: { ...row, id: certificateId, kind: 'device' as const, deviceId, state: 'ACTIVE' as const },
    credentials: { deviceId, name, certificate: issued.chainPem, privateKey },
  };
}
