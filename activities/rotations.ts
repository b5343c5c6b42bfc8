import { hash } from 'node:crypto';
import { insertAudit } from '../db/audit.ts';
import { findBlock } from '../db/blocks.ts';
import { findCertificateState, insertCertificate, revokeCertificate, wasKeyUsed } from '../db/certificates.ts';
import type { Database, Db } from '../db/client.ts';
import { keyKinds } from '../db/enrolment-schema.ts';
import { beginOf } from '../db/rotation-beginnings.ts';
import { endOrder, findOrder, orderRotation } from '../db/rotation-orders.ts';
import { findRotationPolicy, type RotationPolicyRow } from '../db/rotation-policies.ts';
import * as rotations from '../db/rotations.ts';
import { finishRotation, lockRenewing, lockRotation, noteIssued, type RotationRow } from '../db/rotations.ts';
import { findTemplate, readDefinition } from '../db/templates.ts';
import type { CertificateRenewed, RenewCertificate, RotationBegun } from '../workflows/rotate-certificate.ts';
import type { RotationOutcome } from '../workflows/rotate-certificate.ts';
import { refusal } from '../workflows/refusals.ts';
import { blocked, certify, checkRequestedNames, keyInUse, kindOf } from './certification.ts';
import type { Deps } from './deps.ts';
import { retireOthers } from './registrations.ts';

const hourMs = 3_600_000;

type Begin = { deviceId: string; device: string; rotationId?: string; certificateId?: string };
type Ended = RotationOutcome | undefined;

export const rotationActivities = ({ db, authority, wire }: Deps) => ({
  /**
   * Finds the rotation that this lifecycle is of, or begins the one that the device asks for by itself. Repeating it is safe: a
   * device has one at a time.
   */
  async beginRotation({ rotationId, ...asked }: Begin): Promise<RotationBegun> {
    const id = rotationId ?? (await beginRenewal(db, asked));
    const rotation = await rotations.findRotation(db, id);
    if (!rotation) throw refusal('RotationNotFound', 'nobody has begun this rotation', 404);
    const ended = rotation.finishedAt ? outcomeOf(rotation) : undefined;
    return { rotationId: id, over: ended, ...standingOf(rotation), ...(await limitsOf(db, rotation)) };
  },

  /** Gives the device its order, unless it has asked already. Repeating it is safe: the statement orders once. */
  async orderRotation({ rotationId }: { rotationId: string }): Promise<void> {
    await orderRotation(db, rotationId);
    const rotation = await rotations.findRotation(db, rotationId);
    if (rotation?.state === 'ORDERED') wire.tell({ orders: [rotation.deviceId] });
  },

  /**
   * Issues the device a certificate for its new key, beside the one that it asks on. Repeating it is safe: the same key finds
   * the certificate that it has, and another key takes the place of one that was never used, so there are never three.
   */
  async renewCertificate(
    asked: RenewCertificate & { rotationId: string; deviceId: string },
  ): Promise<CertificateRenewed> {
    const publicKey = Buffer.from(asked.publicKey, 'base64');
    const spkiSha256 = hash('sha256', publicKey, 'buffer');
    const renewed = await db.transaction(async (tx) => {
      const rotation = await lockRotation(tx, asked.rotationId);
      if (!rotation || rotation.finishedAt) throw over();
      const { device } = await judge(tx, asked, spkiSha256);
      if (await findBlock(tx, { name: device.name, spkiSha256 })) throw blocked();
      const issuedBefore = await rotations.findIssuedFor(tx, rotation, spkiSha256);
      if (issuedBefore?.state === 'PENDING_ACTIVATION') return issuedBefore.id;
      if (rotation.state === 'PROVEN') throw third();
      if (await wasKeyUsed(tx, spkiSha256)) throw keyInUse();
      checkRequestedNames({ names: asked.names }, device.name);
      const definition = await definitionFor(tx, device.template);
      if (!definition.keys.includes(kindOf(publicKey))) throw wrongKey(definition.keys);
      await takeBack(tx, rotation);
      const issued = await certify(authority, { definition, publicKey }, device.name);
      await keepRenewed(tx, { rotation, device, issued, spkiSha256 });
      return issued.certificateId;
    });
    return { newCertificateId: renewed };
  },

  /**
   * Ends a rotation whose device did not ask for a certificate; undefined when it has asked, and connected, at this very moment.
   * Repeating it is safe: it has ended then.
   */
  giveUpRotation: ({ rotationId }: { rotationId: string }): Promise<Ended> =>
    db.transaction(async (tx) => {
      const order = await findOrder(tx, rotationId);
      return fail(tx, rotationId, order && !order.isOpen ? 'REFUSED' : 'UNANSWERED');
    }),

  /**
   * Revokes the new certificate that was never used; undefined when it was used at this very moment. Repeating it is safe.
   */
  async takeBackCertificate({ rotationId }: { rotationId: string }): Promise<Ended> {
    const ended = await db.transaction((tx) => fail(tx, rotationId, 'NEVER_USED'));
    wire.tell({ feed: true });
    return ended;
  },

  /**
   * Ends the order: the device has shown that it holds the new key, whatever its agent reports. Repeating it is safe: what has
   * ended stays so.
   */
  async acceptProof({ rotationId }: { rotationId: string }): Promise<void> {
    const rotation = await rotations.findRotation(db, rotationId);
    await endOrder(db, { rotationId, status: 'SUCCEEDED', reason: 'it has connected with its new certificate' });
    if (rotation) wire.tell({ orders: [rotation.deviceId] });
  },

  /**
   * Revokes what the new certificate has replaced, if that one is still good: a device is never left without any. Repeating
   * it is safe: what is revoked stays so, and the rotation ends once.
   */
  async retireReplaced({ rotationId }: { rotationId: string }): Promise<RotationOutcome> {
    const outcome = await db.transaction(async (tx) => {
      const rotation = await lockRotation(tx, rotationId);
      if (!rotation || rotation.finishedAt) return outcomeOf(rotation);
      const { deviceId, newCertificateId: keep } = rotation;
      const isGood = keep !== null && (await findCertificateState(tx, keep)) === 'ACTIVE';
      if (isGood) await retireOthers(tx, { deviceId, keep, states: ['PENDING_ACTIVATION', 'ACTIVE'] });
      return finish(tx, rotation, isGood ? 'ROTATED' : 'ENDED');
    });
    wire.tell({ feed: true });
    return outcome;
  },
});

/**
 * The certificate that a device asks on has to be its own, the last that it used, and good at this moment; or it has ended, and
 * the device may come back on it, with the one key that this was granted to.
 */
async function judge(tx: Db, asked: { deviceId: string; certificateId: string }, spkiSha256?: Buffer) {
  const found = await lockRenewing(tx, asked);
  if (!found) throw refusal('CertificateUnknown', 'this certificate is of no device, or of another', 403);
  const { certificate, device, isOver, isNewest, recoveringKey } = found;
  if (device.state === 'BLOCKED') throw blocked();
  if (certificate.state === 'REVOKED') throw refusal('CertificateRevoked', 'the certificate is revoked', 403);
  if (certificate.state !== 'ACTIVE') throw refusal('CertificateNotActive', 'the certificate was never used', 403);
  const isItsKey = recoveringKey !== null && (spkiSha256?.equals(recoveringKey) ?? true);
  if (isOver && !isItsKey) throw refusal('CertificateExpired', 'the certificate has ended', 403);
  if (!isNewest) throw refusal('CertificateSuperseded', 'the device uses a newer certificate', 403);
  return found;
}

/** Begins a rotation because the device asks: when its certificate is due or has ended, or its policy lets it ask at any time. */
async function beginRenewal(
  db: Database,
  { deviceId, device, certificateId = '' }: Omit<Begin, 'rotationId'>,
): Promise<string> {
  return db.transaction(async (tx) => {
    const { isDue, isOver } = await judge(tx, { deviceId, certificateId });
    const open = await rotations.findOpenRotation(tx, deviceId);
    if (open) return open.id;
    if (!isDue) throw refusal('RotationNotDue', 'the certificate is not due yet, and nobody has ordered this', 409);
    const [begun] = await beginOf(tx, {
      deviceId,
      reason: isOver ? 'recovery' : 'renewal',
      askedBy: `device/${device}`,
    });
    if (!begun) throw over();
    return begun.rotationId;
  });
}

async function limitsOf(db: Db, { policy, deviceId, certificateId, reason }: RotationRow) {
  const found = await rotations.findEnd(db, { deviceId, certificateId });
  const { proveWithinHours, graceHours, recoverWithinDays } = (await findRotationPolicy(db, policy)) ?? defaults;
  const longerMs = reason === 'recovery' ? recoverWithinDays * 24 * hourMs : 0;
  return {
    answerWithinMs: Math.max(0, (found?.getTime() ?? 0) + longerMs - Date.now()),
    proveWithinMs: proveWithinHours * hourMs,
    graceMs: graceHours * hourMs,
  };
}

/** Of a policy that is gone since. */
const defaults = { proveWithinHours: 168, graceHours: 24, recoverWithinDays: 0 } satisfies Partial<RotationPolicyRow>;

/** A device that was registered without a template, or whose template is gone, gets what most have. */
async function definitionFor(tx: Db, template: string | null) {
  const found = template === null ? undefined : await findTemplate(tx, template);
  return found ? readDefinition(found.definition) : { lifetimeDays: 365, keys: [...keyKinds] };
}

type Issued = {
  rotation: RotationRow;
  device: { id: string; name: string };
  issued: Awaited<ReturnType<typeof certify>>;
  spkiSha256: Uint8Array;
};

async function keepRenewed(tx: Db, { rotation, device, issued, spkiSha256 }: Issued): Promise<void> {
  const { certificateId: id, authorityId, serial, fingerprint, pem, notBefore, notAfter } = issued;
  const row = { id, authorityId, serial, fingerprint, pem, notBefore, notAfter, spkiSha256, deviceId: device.id };
  const state = 'PENDING_ACTIVATION';
  if (!(await insertCertificate(tx, { ...row, subject: device.name, kind: 'device', state }))) throw keyInUse();
  await noteIssued(tx, rotation.id, id);
  await insertAudit(tx, `device/${device.name}`, {
    action: 'certificate.issued',
    subject: `certificate/${id}`,
    data: { kind: 'device', rotationId: rotation.id, spkiSha256: Buffer.from(spkiSha256).toString('hex') },
  });
}

/** Revokes what the rotation has issued and nobody has used. */
async function takeBack(tx: Db, { newCertificateId: id }: RotationRow): Promise<void> {
  const reason = 'superseded';
  if (!id || !(await revokeCertificate(tx, { id, reason, from: ['PENDING_ACTIVATION'] }))) return;
  const subject = `certificate/${id}`;
  await insertAudit(tx, 'system/lifecycle', { action: 'certificate.revoked', subject, data: { reason } });
}

/** Ends a try in vain, unless the device has just connected with its new certificate. */
async function fail(tx: Db, rotationId: string, outcome: RotationOutcome): Promise<Ended> {
  const rotation = await lockRotation(tx, rotationId);
  if (!rotation || rotation.finishedAt) return outcomeOf(rotation);
  await takeBack(tx, rotation);
  const { newCertificateId, certificateId } = rotation;
  if (newCertificateId && (await findCertificateState(tx, newCertificateId)) === 'ACTIVE') return undefined;
  const isGone = (await findCertificateState(tx, certificateId)) === 'REVOKED';
  await endOrder(tx, { rotationId, status: isGone ? 'CANCELED' : 'TIMED_OUT', reason: outcome.toLowerCase() });
  return finish(tx, rotation, isGone ? 'ENDED' : outcome);
}

async function finish(tx: Db, rotation: RotationRow, outcome: RotationOutcome): Promise<RotationOutcome> {
  const { id, deviceId, state, attempt } = rotation;
  await finishRotation(tx, { id, outcome, from: [state] });
  const device = await rotations.findDeviceName(tx, deviceId);
  const data = { rotationId: id, outcome, attempt };
  await insertAudit(tx, 'system/lifecycle', { action: 'rotation.finished', subject: `device/${device}`, data });
  return outcome;
}

const standingOf = ({ state }: RotationRow) => ({
  issued: state === 'ISSUED' || state === 'PROVEN',
  proven: state === 'PROVEN',
});

const outcomeOf = (rotation: RotationRow | undefined): RotationOutcome =>
  // Of a rotation that has finished, the state is its outcome.
  (rotation?.state ?? 'ENDED') as RotationOutcome;

const over = () => refusal('RotationOver', 'the rotation has ended; ask again', 409);
const third = () => refusal('TooManyCertificates', 'the device has two certificates that live; one ends first', 409);
const wrongKey = (keys: string[]) => refusal('KeyNotPermitted', `the template wants a key of ${keys.join(' or ')}`);
