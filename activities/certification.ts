import { hash, randomBytes } from 'node:crypto';
import { insertAudit } from '../db/audit.ts';
import { findBlock } from '../db/blocks.ts';
import { insertCertificate, wasKeyUsed } from '../db/certificates.ts';
import { findClaim, type ClaimRow } from '../db/claims.ts';
import type { Db } from '../db/client.ts';
import type { Evidence, KeyKind, TemplateDefinition } from '../db/enrolment-schema.ts';
import { findTemplate, readDefinition } from '../db/templates.ts';
import { AuthorityEnding, type Authority, type IssuedCertificate } from '../pki/authority.ts';
import { deviceUri } from '../pki/names.ts';
import { keyAlgorithmOf } from '../pki/public-keys.ts';
import { refusal } from '../workflows/refusals.ts';

const dayMs = 86_400_000;

/** What an enrolment is made from, once it is known that it may be. */
export type Permission = {
  claim: ClaimRow;
  definition: Required<TemplateDefinition>;
  publicKey: Uint8Array;
  spkiSha256: Uint8Array;
};

/** The claim with its template, when they let this key have a certificate. Whether there is a slot left, taking it says. */
export async function findPermission(db: Db, request: { claimId: string; publicKey: string }): Promise<Permission> {
  const publicKey = Buffer.from(request.publicKey, 'base64');
  const spkiSha256 = hash('sha256', publicKey, 'buffer');
  const claim = await findClaim(db, request.claimId);
  if (!claim) throw refusal('ClaimNotFound', 'the claim is not known', 403);
  const template = await findTemplate(db, claim.template);
  if (!template) throw refusal('TemplateNotFound', `template ${claim.template} does not exist`, 404);
  const definition = readDefinition(template.definition);
  if (!definition.keys.includes(kindOf(publicKey))) {
    throw refusal('KeyNotPermitted', `template ${template.name} wants a key of ${definition.keys.join(' or ')}`);
  }
  if (claim.spkiSha256 && !spkiSha256.equals(claim.spkiSha256)) throw notForThis();
  if (await findBlock(db, { spkiSha256 })) throw blocked();
  if (await wasKeyUsed(db, spkiSha256)) throw keyInUse();
  return { claim, definition, publicKey, spkiSha256 };
}

/** A block beats every permission; and a claim may be for certain devices only. Asked under the lock of the name. */
export async function checkName(
  db: Db,
  { claim, publicKey }: { claim: ClaimRow; publicKey: Uint8Array | null },
  name: string,
): Promise<void> {
  if (claim.deviceNames && !claim.deviceNames.includes(name.toLowerCase())) throw notForThis();
  const key = publicKey ? { spkiSha256: hash('sha256', publicKey, 'buffer') } : {};
  if (await findBlock(db, { name, ...key })) throw blocked();
}

/** A request that names somebody names the device that it enrols; most name nobody. */
export function checkRequestedNames({ names = [] }: Evidence, device: string): void {
  if (names.every((name) => name === device || name === deviceUri(device))) return;
  throw refusal('InvalidCsr', `wrong-name: the names in the request must be absent, empty or ${device}`, 400);
}

/** Signs a certificate for the key. Nothing knows it yet: what is not kept is as if it were never signed. */
export async function certify(
  authority: Authority,
  { definition, publicKey }: { definition: Pick<TemplateDefinition, 'lifetimeDays'>; publicKey: Uint8Array },
  device?: string,
): Promise<IssuedCertificate> {
  const certificateId = randomBytes(32).toString('hex');
  const subject = device === undefined ? { certificate: certificateId } : { device };
  const lifetimeMs = definition.lifetimeDays * dayMs;
  try {
    return await authority.issue({ profile: 'device', certificateId, subject, publicKey, lifetimeMs });
  } catch (error) {
    if (error instanceof AuthorityEnding) throw refusal('AuthorityEnding', 'the issuing authority ends too soon', 503);
    throw error;
  }
}

/** Keeps what was signed, still to be activated. */
export async function keepCertificate(
  tx: Db,
  { claim, spkiSha256 }: Permission,
  issued: IssuedCertificate,
): Promise<void> {
  const { certificateId: id, authorityId, serial, fingerprint, pem, notBefore, notAfter } = issued;
  const row = { id, authorityId, serial, fingerprint, pem, notBefore, notAfter, spkiSha256, subject: id };
  if (!(await insertCertificate(tx, { ...row, kind: 'device', state: 'PENDING_ACTIVATION' }))) throw keyInUse();
  await insertAudit(tx, `claim/${claim.id}`, {
    action: 'certificate.issued',
    subject: `certificate/${id}`,
    data: { kind: 'device', claimId: claim.id, spkiSha256: Buffer.from(spkiSha256).toString('hex') },
  });
}

export const kindOf = (publicKey: Uint8Array): KeyKind => {
  const algorithm = keyAlgorithmOf(publicKey);
  return algorithm === 'P-256' || algorithm === 'P-384' ? algorithm : 'RSA';
};

export const keyInUse = () =>
  refusal('KeyInUse', 'this key has a certificate already: a device needs a key of its own', 409);
const notForThis = () => refusal('ClaimNotForThis', 'the claim is for other devices, or for another key', 403);
export const blocked = () => refusal('DeviceBlocked', 'this device or its key is blocked', 403);

/** Names the fault of a claim that gave no slot. */
export function claimSpent(claim: ClaimRow) {
  if (claim.revokedAt) return refusal('ClaimRevoked', 'the claim is revoked', 403);
  if (claim.expiresAt <= new Date()) return refusal('ClaimExpired', 'the claim has expired', 403);
  if (claim.uses >= claim.usesMax) {
    return refusal('ClaimExhausted', `the claim's budget of ${claim.usesMax} devices is used up`, 403);
  }
  return refusal('RateExceeded', "the claim's rate of enrolments per minute is exceeded", 429);
}
