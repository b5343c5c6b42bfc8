import { hash, randomBytes } from 'node:crypto';

const pattern = /^lhc_([0-9a-f]{32})_([A-Za-z0-9_-]{43})$/;

/** A new token of a claim: `token` is for the device and nowhere else. 256 random bits, so a plain hash keeps it. */
export function mintClaimToken(claimId: string): { token: string; tokenHash: Uint8Array } {
  const secret = randomBytes(32).toString('base64url');
  return { token: `lhc_${claimId.replaceAll('-', '')}_${secret}`, tokenHash: hashSecret(secret) };
}

/** What a token says: whose it would be, and the hash that the claim's row must have. Undefined when it is none. */
export function readClaimToken(token: string): { claimId: string; tokenHash: Uint8Array } | undefined {
  const [, id, secret] = pattern.exec(token) ?? [];
  if (id === undefined || secret === undefined) return undefined;
  const claimId = id.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  return { claimId, tokenHash: hashSecret(secret) };
}

const hashSecret = (secret: string) => hash('sha256', secret, 'buffer');
