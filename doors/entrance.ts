import { WithStartWorkflowOperation, type Client } from '@temporalio/client';
import { findClaim } from '../db/claims.ts';
import type { Database } from '../db/client.ts';
import type { AskedRegistration, Evidence, RegistrationAnswer, SubjectFields } from '../db/enrolment-schema.ts';
import { enrolmentKey, findEnrolmentByKey, findIssuedChain, registrationHash } from '../db/enrolments.ts';
import { findEnrolment, type EnrolmentRow } from '../db/enrolments.ts';
import { judgeCsr } from '../pki/csr-policy.ts';
import type { DeviceCertificate } from '../pki/device-certificates.ts';
import { provisionDevice, provisionDeviceId, type ProvisionDevice } from '../workflows/provision-device.ts';
import { registerDevice, requestCertificate } from '../workflows/provision-device.ts';
import { refusal } from '../workflows/refusals.ts';
import { createCoalescer } from './coalescer.ts';
import { startsProvisionDevice } from './lifecycle.ts';

/** What a door has found out about who stands before it. */
export type Permit = {
  claimId: string;
  template: string;
  /** The subject of a manufacturer's certificate, when the handshake proved one. */
  manufacturer?: SubjectFields;
};

export type EntranceDeps = {
  db: Database;
  temporal: { client: Client; taskQueue: string };
  /** SHA-256 of the keys that no device may have: the authorities' own. */
  forbiddenSpki?: Uint8Array[] | undefined;
};

export type Certified = { enrolmentId: string; certificateId: string; certificatePem: string; closesAtMs: number };
export type Enrolled = Certified & RegistrationAnswer;

/** The name of the refusal that means: not yet. An operator has to approve; the same request is to be sent again later. */
export const waitingForApproval = 'WaitingForApproval';

/**
 * The one way in, behind every door. A door finds out who asks, and says the answer in its own words; here a request is
 * judged, the lifecycle is asked once although it came many times, and it is answered again from the rows. A no is a
 * `Refusal`, and so is a not yet.
 */
export function createEntrance({ db, temporal, forbiddenSpki = [] }: EntranceDeps) {
  const asking = createCoalescer();
  const { workflow } = temporal.client;

  async function judge(csr: string | Uint8Array) {
    const judged = await judgeCsr(csr, { forbiddenSpki });
    if ('accepted' in judged) return judged.accepted;
    throw refusal('InvalidCsr', `${judged.refused.reason}: ${judged.refused.detail}`, 400);
  }

  /** The enrolment that this request has already; a claim that has nothing left is told so without a workflow. */
  async function findStanding(claimId: string, key: string): Promise<EnrolmentRow | undefined> {
    // The claim first: where this very request has just used it up, its enrolment is there when that is looked for.
    const claim = await findClaim(db, claimId);
    const standing = await findEnrolmentByKey(db, key);
    if (!claim) throw refusal('ClaimNotFound', 'the claim is not known', 403);
    if (claim.revokedAt) throw refusal('ClaimRevoked', 'the claim is revoked', 403);
    if (claim.expiresAt <= new Date()) throw refusal('ClaimExpired', 'the claim has expired', 403);
    if (standing?.state === 'DENIED') throw denied();
    if (standing) return standing;
    if (claim.uses < claim.usesMax) return undefined;
    throw refusal('ClaimExhausted', `the claim's budget of ${claim.usesMax} devices is used up`, 403);
  }

  const ask = (key: string, request: ProvisionDevice, template: string) => {
    const startWorkflowOperation = new WithStartWorkflowOperation(provisionDevice, {
      ...startsProvisionDevice(request, template),
      workflowId: provisionDeviceId(key),
      taskQueue: temporal.taskQueue,
      args: [request],
      workflowIdConflictPolicy: 'USE_EXISTING',
    });
    return asking(key, () => workflow.executeUpdateWithStart(requestCertificate, { startWorkflowOperation }));
  };

  async function chainOf(certificateId: string): Promise<string> {
    const chain = await findIssuedChain(db, certificateId);
    if (!chain) throw new Error(`certificate ${certificateId} was issued and has no row`);
    return chain;
  }

  async function certifiedBy({ id, certificateId, closesAt }: EnrolmentRow): Promise<Certified> {
    if (!certificateId) throw refusal('AlreadyRegistered', 'this key enrols by another way already', 409);
    const certificatePem = await chainOf(certificateId);
    return { enrolmentId: id, certificateId, certificatePem, closesAtMs: closesAt.getTime() };
  }

  return {
    /** The first of two steps: a certificate for the key of the request, in no device's name yet. */
    async certify(permit: Permit, csr: string | Uint8Array): Promise<Certified> {
      const { publicKey, requested } = await judge(csr);
      const key = enrolmentKey(permit.claimId, publicKey);
      const standing = await findStanding(permit.claimId, key);
      if (standing) return certifiedBy(standing);
      const issued = await ask(key, requestOf(permit, publicKey, requested), permit.template);
      if (!('certificateId' in issued))
        throw refusal('AlreadyRegistered', 'this key enrols by another way already', 409);
      const { enrolmentId, certificateId, closesAtMs } = issued;
      return { enrolmentId, certificateId, certificatePem: await chainOf(certificateId), closesAtMs };
    },

    /** The second: the device that the enrolment has, or gets now. Asked again with the same parameters, the same. */
    async register(enrolment: EnrolmentRow, asked: AskedRegistration): Promise<RegistrationAnswer> {
      if (asked.template !== enrolment.template) throw wrongTemplate(enrolment.template);
      const hash = registrationHash(asked);
      const given = answerOf(enrolment, hash);
      if (given) return given;
      const lifecycle = workflow.getHandle(provisionDeviceId(enrolment.key));
      await asking(`${enrolment.key} ${hash.toString('hex')}`, () =>
        lifecycle.executeUpdate(registerDevice, { args: [asked] }),
      );
      return answerNow(enrolment.id, hash);
    },

    /** Both in one: the certificate carries the device's name. The claim of the permit says which template it is. */
    async enrol(
      permit: Permit,
      { csr, parameters }: { csr: string | Uint8Array; parameters: Record<string, string> },
    ): Promise<Enrolled> {
      const { publicKey, requested } = await judge(csr);
      const asked = { template: permit.template, parameters };
      const { enrolment, answer } = await enrolOnce(requestOf(permit, publicKey, requested), publicKey, asked);
      return { ...(await certifiedBy(enrolment)), ...answer };
    },

    /** The same for a device that keeps the certificate which its manufacturer gave it, and whose handshake proved it. */
    async adopt(permit: Permit, { publicKey, key, pem }: DeviceCertificate): Promise<RegistrationAnswer> {
      if (forbiddenSpki.some((spki) => Buffer.from(spki).toString('hex') === key))
        throw refusal('CertificateRefused', "this key is an authority's", 403);
      const asked = { template: permit.template, parameters: {} };
      const request = requestOf(permit, publicKey, { subject: {}, names: [] });
      return (await enrolOnce({ ...request, adopts: pem }, publicKey, asked)).answer;
    },
  };

  async function enrolOnce(request: ProvisionDevice, publicKey: Uint8Array, asked: AskedRegistration) {
    const hash = registrationHash(asked);
    const key = enrolmentKey(request.claimId, publicKey);
    const standing = await findStanding(request.claimId, key);
    if (!standing || (standing.state === 'ISSUED' && !standing.answer)) {
      await ask(key, { ...request, registration: asked }, asked.template);
    }
    const enrolment = standing?.answer ? standing : await findEnrolmentByKey(db, key);
    if (!enrolment) throw new Error(`the enrolment ${key} was begun and has no row`);
    const answer = answerOf(enrolment, hash) ?? (await answerNow(enrolment.id, hash));
    return { enrolment, answer };
  }

  async function answerNow(enrolmentId: string, hash: Buffer): Promise<RegistrationAnswer> {
    const found = await findEnrolment(db, enrolmentId);
    const answer = found && answerOf(found.enrolment, hash);
    if (!answer) throw new Error(`the enrolment ${enrolmentId} was registered and has no answer`);
    return answer;
  }
}

function requestOf(
  { claimId, manufacturer }: Permit,
  publicKey: Uint8Array,
  { subject, names }: { subject: SubjectFields; names: string[] },
): ProvisionDevice {
  const evidence: Evidence = { request: subject, names, ...(manufacturer && { manufacturer }) };
  return { claimId, publicKey: Buffer.from(publicKey).toString('base64'), evidence };
}

/** What the registration was answered; undefined when nobody has registered yet. */
function answerOf(enrolment: EnrolmentRow, hash: Buffer): RegistrationAnswer | undefined {
  const { state, answer, registrationHash: first, approvedAt } = enrolment;
  if (state === 'LAPSED') throw refusal('EnrolmentLapsed', 'the enrolment is over', 403);
  if (state === 'DENIED') throw denied();
  if (first && !hash.equals(first)) {
    throw refusal('AlreadyRegistered', 'this certificate was registered with other parameters', 409);
  }
  if (state === 'WAITING_FOR_APPROVAL' && !approvedAt) throw notYet();
  return answer ?? undefined;
}

const denied = () => refusal('EnrolmentDenied', 'an operator has denied this enrolment', 403);
/** 503, because clients give up at what is below it. */
const notYet = () =>
  refusal(waitingForApproval, 'an operator has to approve of this device; ask again later, with the same key', 503);
const wrongTemplate = (template: string) =>
  refusal('TemplateNotPermitted', `this claim is for template ${template}`, 403);
