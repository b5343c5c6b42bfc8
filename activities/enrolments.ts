import { createHash, randomBytes, randomUUIDv7 } from 'node:crypto';
import { insertAudit } from '../db/audit.ts';
import { bindCertificate, insertCertificate, wasKeyUsed, revokeCertificate } from '../db/certificates.ts';
import { findClaim } from '../db/claims.ts';
import { adoptDevice } from '../db/devices.ts';
import { enrolmentKey, findEnrolmentByKey, insertEnrolment, lockEnrolment } from '../db/enrolments.ts';
import { registrationHash } from '../db/enrolments.ts';
import { markLapsed, markRegistered, releaseClaimSlot, takeClaimSlot } from '../db/enrolments.ts';
import { findTemplate } from '../db/templates.ts';
import { AuthorityEnding } from '../pki/authority.ts';
import type { CertificateIssued, DeviceRegistered, ProvisionDevice } from '../workflows/provision-device.ts';
import type { RegisterDevice } from '../workflows/provision-device.ts';
import { refusal } from '../workflows/refusals.ts';
import type { Deps } from './deps.ts';
import { fillTemplate } from './templates.ts';

const dayMs = 86_400_000;

export const enrolmentActivities = ({ db, authority, wire }: Deps) => ({
  /**
   * Issues a certificate for the key under the claim, still to be activated. Repeating it is safe: the same claim and
   * key find their enrolment while its hour lasts, and row, slot and enrolment are one transaction.
   */
  async issueCertificate(request: Required<ProvisionDevice>): Promise<CertificateIssued> {
    const publicKey = Buffer.from(request.publicKey, 'base64');
    const key = enrolmentKey(request.claimId, publicKey);
    const existing = await findEnrolmentByKey(db, key);
    if (existing) return describe(existing);

    const claim = await findClaim(db, request.claimId);
    if (!claim) throw refusal('ClaimNotFound', 'the claim is not known', 403);
    const template = await findTemplate(db, claim.template);
    if (!template) throw refusal('TemplateNotFound', `template ${claim.template} does not exist`, 404);
    const spkiSha256 = createHash('sha256').update(publicKey).digest();
    if (await wasKeyUsed(db, spkiSha256)) throw keyInUse();

    const certificateId = randomBytes(32).toString('hex');
    const issued = await authority
      .issue({
        profile: 'device',
        certificateId,
        subject: { certificate: certificateId },
        publicKey,
        lifetimeMs: template.definition.lifetimeDays * dayMs,
      })
      .catch(refuseEnding);
    const enrolment = {
      id: randomUUIDv7(),
      key,
      claimId: claim.id,
      template: claim.template,
      certificateId,
      state: 'ISSUED' as const,
      closesAt: new Date(Date.now() + request.activateWithinMs),
    };
    await db.transaction(async (tx) => {
      const { authorityId, serial, fingerprint, pem, notBefore, notAfter } = issued;
      const row = { authorityId, serial, fingerprint, pem, notBefore, notAfter, spkiSha256, subject: certificateId };
      const state = 'PENDING_ACTIVATION';
      if (!(await insertCertificate(tx, { ...row, id: certificateId, kind: 'device', state }))) throw keyInUse();
      await insertEnrolment(tx, enrolment);
      await insertAudit(tx, `claim/${claim.id}`, {
        action: 'certificate.issued',
        subject: `certificate/${certificateId}`,
        data: { kind: 'device', claimId: claim.id, spkiSha256: spkiSha256.toString('hex') },
      });
      // Last, because every enrolment under the claim waits for this row until the commit.
      if (!(await takeClaimSlot(tx, claim.id))) throw claimSpent(claim);
    });
    return describe(enrolment);
  },

  /**
   * Gives the enrolment's certificate to a device, new or registered ahead. Repeating it is safe: the first registration
   * of an enrolment stands, the same parameters find it again, and others are refused.
   */
  async registerDevice(request: RegisterDevice & { enrolmentId: string }): Promise<DeviceRegistered> {
    return db.transaction(async (tx) => {
      const found = await lockEnrolment(tx, request.enrolmentId);
      if (!found || found.enrolment.state === 'LAPSED') throw refusal('EnrolmentLapsed', 'the enrolment is over', 403);
      const { enrolment, definition } = found;
      if (enrolment.template !== request.template) {
        throw refusal('TemplateNotPermitted', `this claim is for template ${enrolment.template}`, 403);
      }
      const hash = registrationHash(request);
      if (enrolment.answer) {
        if (Buffer.from(enrolment.registrationHash ?? []).equals(hash)) return nameOf(enrolment.answer);
        throw refusal('AlreadyRegistered', 'this certificate was registered with other parameters', 409);
      }
      const { name, attributes, configuration } = fillTemplate(definition, request.parameters);
      const device = await adoptDevice(tx, { id: randomUUIDv7(), name, template: enrolment.template, attributes });
      if (!device) throw refusal('DeviceExists', `a device named ${name} is enrolled or blocked already`, 409);
      const answer = { deviceName: device.name, configuration };
      await bindCertificate(tx, enrolment.certificateId, device);
      await markRegistered(tx, enrolment.id, { deviceId: device.id, registrationHash: hash, answer });
      await insertAudit(tx, `claim/${enrolment.claimId}`, {
        action: 'device.registered',
        subject: `device/${device.name}`,
        data: { template: enrolment.template, certificateId: enrolment.certificateId },
      });
      return nameOf(answer);
    });
  },

  /**
   * Ends an enrolment whose certificate was never used: revoked, slot given back. Repeating it is safe, and so is losing
   * the race against the device: the certificate's row decides, and one that was activated stays.
   */
  async lapseEnrolment({ enrolmentId }: { enrolmentId: string }): Promise<'LAPSED' | 'ACTIVATED'> {
    const outcome = await db.transaction(async (tx) => {
      const found = await lockEnrolment(tx, enrolmentId);
      if (!found || found.enrolment.state === 'LAPSED') return 'LAPSED';
      const { certificateId, claimId } = found.enrolment;
      const revocation = { id: certificateId, reason: 'neverUsed', from: ['PENDING_ACTIVATION' as const] };
      if (!(await revokeCertificate(tx, revocation))) return 'ACTIVATED';
      await releaseClaimSlot(tx, claimId);
      await markLapsed(tx, enrolmentId);
      await insertAudit(
        tx,
        'system/lifecycle',
        { action: 'enrolment.lapsed', subject: `enrolment/${enrolmentId}`, data: { certificateId, claimId } },
        { action: 'certificate.revoked', subject: `certificate/${certificateId}`, data: { reason: 'neverUsed' } },
      );
      return 'LAPSED';
    });
    if (outcome === 'LAPSED') wire.tell({ feed: true });
    return outcome;
  },
});

type Enrolment = { id: string; certificateId: string; template: string; closesAt: Date };

const describe = ({ id, certificateId, template, closesAt }: Enrolment): CertificateIssued => ({
  enrolmentId: id,
  certificateId,
  template,
  closesAtMs: closesAt.getTime(),
});

/** The rest of the answer stays out of histories: a configuration may hold what is not for everybody. */
const nameOf = ({ deviceName }: DeviceRegistered): DeviceRegistered => ({ deviceName });

const keyInUse = () => refusal('KeyInUse', 'this key has a certificate already: a device needs a key of its own', 409);

function refuseEnding(error: unknown): never {
  if (error instanceof AuthorityEnding) throw refusal('AuthorityEnding', 'the issuing authority ends too soon', 503);
  throw error;
}

/** Names the fault of a claim that gave no slot. */
function claimSpent(claim: { revokedAt: Date | null; expiresAt: Date; uses: number; usesMax: number }) {
  if (claim.revokedAt) return refusal('ClaimRevoked', 'the claim is revoked', 403);
  if (claim.expiresAt <= new Date()) return refusal('ClaimExpired', 'the claim has expired', 403);
  if (claim.uses >= claim.usesMax) {
    return refusal('ClaimExhausted', `the claim's budget of ${claim.usesMax} devices is used up`, 403);
  }
  return refusal('RateExceeded', "the claim's rate of enrolments per minute is exceeded", 429);
}
