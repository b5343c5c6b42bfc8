import { createHash, randomUUIDv7 } from 'node:crypto';
import { insertAudit } from '../db/audit.ts';
import { bindCertificate, listOtherCertificates, revokeCertificate } from '../db/certificates.ts';
import { isKeyOfAnother } from '../db/registered-keys.ts';
import type { ClaimRow } from '../db/claims.ts';
import type { Db } from '../db/client.ts';
import { adoptDevice, insertEnrolling, lockDeviceNamed, type NamedDevice } from '../db/devices.ts';
import type { AskedRegistration, Evidence, Registration, TemplateDefinition } from '../db/enrolment-schema.ts';
import { findHookAnswer, waitForApproval } from '../db/enrolment-decisions.ts';
import { markRegistered, registrationHash, type EnrolmentRow } from '../db/enrolments.ts';
import { joinGroups } from '../db/group-members.ts';
import type { DeviceRegistered, HookToAsk, WaitsForOperator } from '../workflows/provision-device.ts';
import { refusal } from '../workflows/refusals.ts';
import { checkName } from './certification.ts';
import { fillTemplate } from './templates.ts';

const hourMs = 3_600_000;

type Planning = {
  definition: Required<TemplateDefinition>;
  /** Of the enrolment. */
  key: string;
  asked: AskedRegistration;
  evidence: Evidence;
};

/** What the template makes of the device, with what its hook has said; or that the hook is to be asked first. */
export async function planRegistration(db: Db, planning: Planning): Promise<Registration | HookToAsk> {
  const { definition, key, asked, evidence } = planning;
  const planned = fillTemplate(definition, asked.parameters, evidence);
  if (!definition.hook) return planned;
  const hookKey = `enrolment_${key}_${registrationHash(asked).toString('hex').slice(0, 32)}`;
  const said = await findHookAnswer(db, hookKey);
  if (!said) return { hookKey };
  if (!said.allow) throw refusal('HookDenied', 'the hook of the template does not allow this enrolment', 403);
  return fillTemplate(definition, { ...asked.parameters, ...said.parameters }, evidence);
}

export type Registering = {
  enrolment: EnrolmentRow;
  claim: ClaimRow;
  definition: Required<TemplateDefinition>;
  registration: Registration;
  hash: Uint8Array;
  /** The certificate that the device gets: kept when there is none yet. */
  certify: (device: string) => Promise<string>;
};

/**
 * Makes the device of an enrolment whose row is locked, or lets it wait for an operator. Everything that was approved is
 * looked at again: a block, another device of the name, and a claim's bounds hold at this moment.
 */
export async function register(tx: Db, registering: Registering): Promise<DeviceRegistered | WaitsForOperator> {
  const { enrolment, claim, definition, registration, hash, certify } = registering;
  const { publicKey, approvedAt, waitsFor: approved } = enrolment;
  await checkName(tx, { claim, publicKey }, registration.name);
  const found = await lockDeviceNamed(tx, registration.name);
  await checkRegisteredKey(tx, found, publicKey);
  const waitsFor = approvalNeeded(definition, registration.name, found);
  const isApproved = approvedAt !== null && (approved === 'device-exists' || approved === waitsFor);
  if (waitsFor && !isApproved) {
    const closesAt = new Date(Date.now() + definition.approvalWithinHours * hourMs);
    await waitForApproval(tx, enrolment, { waitsFor, registration, registrationHash: hash, closesAt });
    return { deviceName: registration.name, waitsFor, closesAtMs: closesAt.getTime() };
  }
  const device = await takeDevice(tx, enrolment.template, registration, found);
  // Somebody has just taken the name: the row is there now, and decides.
  if (!device) return register(tx, registering);
  return finish(tx, registering, device, found?.enrolled ?? false, await certify(device.name));
}

/** Who registers a key ahead has said that it is the device's: no template and no operator outweighs that. */
async function checkRegisteredKey(tx: Db, found: NamedDevice | undefined, publicKey: Uint8Array | null) {
  const key = createHash('sha256')
    .update(publicKey ?? '')
    .digest();
  if (!(await isKeyOfAnother(tx, key, found?.id))) return;
  throw refusal('KeyNotRegistered', 'another key is registered for this device, or the key for another device', 403);
}

function approvalNeeded(
  { existing, approval }: Required<TemplateDefinition>,
  name: string,
  found: NamedDevice | undefined,
) {
  if (found?.blocked || (found?.enrolled && existing === 'reject')) {
    throw refusal('DeviceExists', `a device named ${name} is enrolled or blocked already`, 409);
  }
  if (found?.enrolled && existing === 'approve') return 'device-exists';
  return approval ? 'approval' : undefined;
}

async function takeDevice(
  tx: Db,
  template: string,
  { name, attributes }: Registration,
  found: NamedDevice | undefined,
) {
  if (!found) return insertEnrolling(tx, { id: randomUUIDv7(), name, template, attributes });
  await adoptDevice(tx, found.id, { template, attributes });
  return found;
}

async function finish(
  tx: Db,
  { enrolment, registration, hash }: Registering,
  device: { id: string; name: string },
  supersedes: boolean,
  certificateId: string,
): Promise<DeviceRegistered> {
  const closesAt = new Date(Math.max(enrolment.closesAt.getTime(), enrolment.approvedAt ? Date.now() + hourMs : 0));
  const answer = { deviceName: device.name, configuration: registration.configuration };
  await bindCertificate(tx, certificateId, device);
  await joinGroups(tx, device.id, registration.groups);
  const registered = { deviceId: device.id, registrationHash: hash, answer, supersedes, certificateId, closesAt };
  await markRegistered(tx, enrolment.id, registered);
  // One that nobody has used yet proves nothing: it makes room at once, so that there are never three.
  if (supersedes) await retireOthers(tx, { deviceId: device.id, keep: certificateId, states: ['PENDING_ACTIVATION'] });
  await insertAudit(tx, `claim/${enrolment.claimId}`, {
    action: 'device.registered',
    subject: `device/${device.name}`,
    data: { template: enrolment.template, certificateId },
  });
  return { deviceName: device.name, closesAtMs: closesAt.getTime(), supersedes };
}

/** Revokes what another certificate of the device has replaced: there are at most two. */
export async function retireOthers(tx: Db, others: Parameters<typeof listOtherCertificates>[1]): Promise<boolean> {
  const reason = 'superseded';
  const ids = await listOtherCertificates(tx, others);
  for (const id of ids) {
    if (!(await revokeCertificate(tx, { id, reason, from: others.states }))) continue;
    const subject = `certificate/${id}`;
    await insertAudit(tx, 'system/lifecycle', { action: 'certificate.revoked', subject, data: { reason } });
  }
  return ids.length > 0;
}
