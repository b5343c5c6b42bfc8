import { hash, X509Certificate } from 'node:crypto';
import type { DeviceFolder, TrustBundle } from './device-folder.ts';
import type { Verdict } from './device-job-journal.ts';
import type { Power } from './device-power.ts';
import { JobRefused } from './device-refusal.ts';

export type TrustDeps = { folder: Pick<DeviceFolder, 'trustBundle' | 'keepTrustBundle'>; power: Power };

/**
 * Takes the roots that the fleet is recognised by from the next connection on. That they are on the disk is what SUCCEEDED says. Refused
 * are others than were meant, what is no certificate, and an older version: a device never goes back to a root that was retired.
 */
export function takeTrustBundle(
  { version, sha256, certificatesPem }: TrustBundle & { sha256: string },
  { folder, power }: TrustDeps,
): Verdict {
  if (hash('sha256', certificatesPem) !== sha256) throw new JobRefused('WRONG_DIGEST', 'these are other certificates');
  if (!areCertificates(certificatesPem)) throw new JobRefused('NO_CERTIFICATES', 'there is nothing to trust in it');
  const kept = folder.trustBundle()?.version ?? 0;
  if (version < kept) throw new JobRefused('OLDER', `version ${kept} is trusted already`);
  folder.keepTrustBundle({ version, certificatesPem });
  power.reach('trust-kept');
  return { status: 'SUCCEEDED', statusDetails: {} };
}

function areCertificates(pem: string): boolean {
  const found = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  try {
    return found.length > 0 && found.every((one) => new X509Certificate(one).ca);
  } catch {
    return false;
  }
}
