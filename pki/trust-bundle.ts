import { hash } from 'node:crypto';

/** What devices trust: certificates in PEM, the root first, and a version that is another whenever they are others. */
export type TrustBundle = { version: string; certificatesPem: string };

type AuthorityCertificate = { kind: string; state: string; certificatePem: string };

/**
 * Everything but what is revoked, and a root that is retired. Roots stand first: who takes one certificate only, takes that.
 */
export function trustBundleOf(authorities: AuthorityCertificate[]): TrustBundle {
  const certificatesPem = authorities
    .filter(({ kind, state }) => state !== 'REVOKED' && !(kind === 'root' && state === 'RETIRED'))
    .toSorted((a, b) => b.kind.localeCompare(a.kind))
    .map(({ certificatePem }) => certificatePem)
    .join('');
  return { version: hash('sha256', certificatesPem, 'base64url'), certificatesPem };
}
