import { randomUUIDv7 } from 'node:crypto';
import { insertAudit } from '../db/audit.ts';
import type { Db } from '../db/client.ts';
import { findDevice } from '../db/devices.ts';
import { refuseApproved, takeSuperseding } from '../db/enrolment-decisions.ts';
import * as enrolments from '../db/enrolments.ts';
import { enrolmentKey, findEnrolmentByKey, registrationHash, type EnrolmentRow } from '../db/enrolments.ts';
import { readDefinition } from '../db/templates.ts';
import type * as workflow from '../workflows/provision-device.ts';
import { findRefusal, refusal } from '../workflows/refusals.ts';
import { adoptCertificate, takeBack } from './adoption.ts';
import * as certification from './certification.ts';
import { certify, findPermission, keepCertificate, type Permission } from './certification.ts';
import type { Deps } from './deps.ts';
import { planRegistration, register, retireOthers } from './registrations.ts';
import { trustsRequest } from './templates.ts';

type Request = workflow.ProvisionDevice & { activateWithinMs: number };
type Over = 'LAPSED' | 'ACTIVATED' | 'DENIED';
type Standing = workflow.DeviceRegistered | workflow.WaitsForOperator;

export const enrolmentActivities = ({ db, authority, wire }: Deps) => ({
  /**
   * Issues a certificate for the key under the claim, still to be activated. Repeating it is safe: the same claim and
   * key find their enrolment while its hour lasts, and row, slot and enrolment are one transaction.
   */
  async issueCertificate(request: Request): Promise<workflow.CertificateIssued & { enrolmentId: string }> {
    const existing = await findEnrolmentByKey(db, keyOf(request));
    if (existing) return describeIssued(existing);
    const permission = await findPermission(db, request);
    const issued = await certify(authority, permission);
    return db.transaction(async (tx) => {
      await keepCertificate(tx, permission, issued);
      const { certificateId } = issued;
      const enrolment = await open(tx, request, { ...permission, state: 'ISSUED', certificateId });
      return describeIssued(enrolment);
    });
  },

  /**
   * Gives the enrolment's certificate to a device, new or registered ahead, or lets it wait for an operator. Repeating it
   * is safe: the first registration of an enrolment stands, the same parameters find it again, and others are refused.
   */
  async registerDevice({
    enrolmentId,
    ...asked
  }: workflow.RegisterDevice & { enrolmentId: string }): Promise<Standing | workflow.HookToAsk> {
    return db.transaction(async (tx) => {
      const found = await enrolments.lockEnrolment(tx, enrolmentId);
      if (!found) throw refusal('EnrolmentLapsed', 'the enrolment is over', 403);
      const { enrolment } = found;
      if (enrolment.template !== asked.template) throw wrongTemplate(enrolment.template);
      const hash = registrationHash(asked);
      const standing = standingOf(enrolment, hash);
      if (standing) return standing;
      const { key, evidence } = enrolment;
      const definition = readDefinition(found.definition);
      const registration = await planRegistration(tx, { definition, key, asked, evidence });
      if ('hookKey' in registration) return registration;
      return register(tx, { ...found, definition, registration, hash, certify: async () => certificateOf(enrolment) });
    });
  },

  /**
   * Certificate and registration in one step: the certificate carries the device's name, or is the one that the device has
   * from its manufacturer. Repeating it is safe like the two steps: the enrolment of the claim and key stands, with its
   * device or its wait.
   */
  async enrolDevice(
    request: Request & { registration: workflow.RegisterDevice },
  ): Promise<(Standing & { enrolmentId: string }) | workflow.HookToAsk> {
    const { registration: asked, evidence = {}, adopts = null } = request;
    const hash = registrationHash(asked);
    const key = keyOf(request);
    const existing = await findEnrolmentByKey(db, key);
    if (existing) return { enrolmentId: existing.id, ...(standingOf(existing, hash) ?? openUntil(existing)) };

    const permission = await findPermission(db, request);
    const { claim, definition } = permission;
    if (claim.template !== asked.template) throw wrongTemplate(claim.template);
    const registration = await planRegistration(db, { definition, key, asked, evidence });
    if ('hookKey' in registration) return registration;
    // A device that was registered ahead keeps the case of its name.
    const name = (await findDevice(db, registration.name))?.device.name ?? registration.name;
    if (!trustsRequest(definition)) certification.checkRequestedNames(evidence, name);
    const keep = await give(authority, permission, { name, adopts });
    return db.transaction(async (tx) => {
      const enrolment = await open(tx, request, { ...permission, state: 'ISSUED', certificateId: null });
      const made = await register(tx, { enrolment, claim, definition, registration, hash, certify: () => keep(tx) });
      return { enrolmentId: enrolment.id, ...made };
    });
  },

  /**
   * Carries out what an operator has decided. Repeating it is safe: the row says what stands. What was approved and may
   * not be any more, because of a block or a change of the template, is denied.
   */
  async settleEnrolment({ enrolmentId }: { enrolmentId: string }): Promise<Standing | Over> {
    try {
      return await db.transaction(async (tx) => {
        const found = await enrolments.lockEnrolment(tx, enrolmentId);
        if (!found) return 'LAPSED';
        const { enrolment, claim } = found;
        const { registration, registrationHash: hash, publicKey, approvedAt } = enrolment;
        const over = overOf(enrolment);
        if (over) return over;
        if (!registration || !hash || !approvedAt || enrolment.answer)
          return standingOf(enrolment) ?? openUntil(enrolment);
        const definition = readDefinition(found.definition);
        const issue = async (device: string) => {
          const request = { claimId: claim.id, publicKey: Buffer.from(publicKey ?? []).toString('base64') };
          const permission = await findPermission(tx, request);
          const keep = await give(authority, permission, { name: device, adopts: enrolment.adopts });
          return keep(tx);
        };
        const given = async (device: string) => enrolment.certificateId ?? issue(device);
        return register(tx, { enrolment, claim, definition, registration, hash, certify: given });
      });
    } catch (error) {
      const refused = findRefusal(error);
      if (!refused) throw error;
      await refuseApproved(db, enrolmentId, refused.detail);
      return 'DENIED';
    }
  },

  /**
   * Ends an enrolment whose time is over and whose certificate was never used: taken back, slot given back. Repeating it is
   * safe, and so is losing the race against the device: the certificate's row decides, and one that was activated stays.
   * An enrolment that has more time by now is told with it.
   */
  async lapseEnrolment({ enrolmentId }: { enrolmentId: string }): Promise<Over | Standing> {
    const outcome = await db.transaction(async (tx) => {
      const found = await enrolments.lockEnrolment(tx, enrolmentId);
      if (!found) return 'LAPSED';
      const { certificateId, claimId } = found.enrolment;
      const over = overOf(found.enrolment);
      if (over) return over;
      if (!found.isOver) return standingOf(found.enrolment) ?? openUntil(found.enrolment);
      const taken = await takeBack(tx, found.enrolment);
      if (taken === 'kept') return 'ACTIVATED';
      await enrolments.releaseClaimSlot(tx, claimId);
      await enrolments.markLapsed(tx, enrolmentId);
      const data = { claimId, ...(certificateId && { certificateId }) };
      await insertAudit(tx, 'system/lifecycle', {
        action: 'enrolment.lapsed',
        subject: `enrolment/${enrolmentId}`,
        data,
      });
      if (taken === 'revoked') {
        const subject = `certificate/${certificateId}`;
        await insertAudit(tx, 'system/lifecycle', {
          action: 'certificate.revoked',
          subject,
          data: { reason: 'neverUsed' },
        });
      }
      return 'LAPSED';
    });
    if (outcome === 'LAPSED') wire.tell({ feed: true });
    return outcome;
  },

  /** Revokes what the device had before, now that it has connected with the new one. Repeating it finds nothing to do. */
  async retireSuperseded({ enrolmentId }: { enrolmentId: string }): Promise<void> {
    const retired = await db.transaction(async (tx) => {
      const { deviceId, certificateId: keep } = (await takeSuperseding(tx, enrolmentId)) ?? {};
      if (!deviceId || !keep) return false;
      return retireOthers(tx, { deviceId, keep, states: ['PENDING_ACTIVATION', 'ACTIVE'] });
    });
    if (retired) wire.tell({ feed: true });
  },
});

const keyOf = ({ claimId, publicKey }: Pick<Request, 'claimId' | 'publicKey'>) =>
  enrolmentKey(claimId, Buffer.from(publicKey, 'base64'));

/** How the device gets its certificate, once there is a transaction to keep it in: issued in its name, or adopted. */
async function give(
  authority: Deps['authority'],
  permission: Permission,
  { name, adopts }: { name: string; adopts: string | null },
): Promise<(tx: Db) => Promise<string>> {
  if (adopts !== null) return (tx) => adoptCertificate(tx, permission, adopts);
  const issued = await certify(authority, permission, name);
  return async (tx) => {
    await keepCertificate(tx, permission, issued);
    return issued.certificateId;
  };
}

type Opening = certification.Permission & Pick<EnrolmentRow, 'state' | 'certificateId'>;

/** The row of a new enrolment, and its slot of the claim. */
async function open(
  tx: Db,
  request: Request,
  { claim, publicKey, state, certificateId }: Opening,
): Promise<EnrolmentRow> {
  const enrolment = await enrolments.insertEnrolment(tx, {
    id: randomUUIDv7(),
    key: keyOf(request),
    claimId: claim.id,
    template: claim.template,
    certificateId,
    state,
    publicKey,
    evidence: request.evidence ?? {},
    asked: request.registration ?? null,
    adopts: request.adopts ?? null,
    closesAt: new Date(Date.now() + request.activateWithinMs),
  });
  // Last, because every enrolment under the claim waits for this row until the commit.
  if (!(await enrolments.takeClaimSlot(tx, claim.id))) throw certification.claimSpent(claim);
  return enrolment;
}

const describeIssued = (enrolment: EnrolmentRow) => ({
  enrolmentId: enrolment.id,
  certificateId: certificateOf(enrolment),
  template: enrolment.template,
  closesAtMs: enrolment.closesAt.getTime(),
});

function certificateOf({ certificateId }: EnrolmentRow): string {
  if (certificateId) return certificateId;
  throw refusal('AlreadyRegistered', 'this enrolment was begun by another way of enrolling', 409);
}

const openUntil = ({ registration, closesAt, supersedes }: EnrolmentRow): Standing => ({
  deviceName: registration?.name ?? '',
  closesAtMs: closesAt.getTime(),
  supersedes,
});

const overOf = ({ state }: EnrolmentRow): Over | undefined =>
  state === 'LAPSED' || state === 'DENIED' || state === 'ACTIVATED' ? state : undefined;

/**
 * What an enrolment has been told already; undefined when it has yet to be registered, or an operator has approved. The
 * rest of the answer stays out of histories: a configuration may hold what is not for everybody.
 */
function standingOf(enrolment: EnrolmentRow, hash?: Buffer): Standing | undefined {
  const { state, answer, registration, waitsFor, approvedAt, supersedes, closesAt } = enrolment;
  if (state === 'LAPSED') throw refusal('EnrolmentLapsed', 'the enrolment is over', 403);
  if (state === 'DENIED') throw refusal('EnrolmentDenied', 'an operator has denied this enrolment', 403);
  const isSame = !hash || !enrolment.registrationHash || hash.equals(enrolment.registrationHash);
  if (!isSame) throw refusal('AlreadyRegistered', 'this certificate was registered with other parameters', 409);
  const closesAtMs = closesAt.getTime();
  if (answer) return { deviceName: answer.deviceName, closesAtMs, supersedes };
  if (!registration || !waitsFor || approvedAt) return undefined;
  return { deviceName: registration.name, closesAtMs, waitsFor };
}

const wrongTemplate = (template: string) =>
  refusal('TemplateNotPermitted', `this claim is for template ${template}`, 403);
