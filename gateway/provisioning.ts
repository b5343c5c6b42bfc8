import { createHash, randomBytes } from 'node:crypto';
import { WithStartWorkflowOperation, type Client } from '@temporalio/client';
import type { Logger } from 'pino';
import { z } from 'zod';
import { findClaim } from '../db/claims.ts';
import type { Database } from '../db/client.ts';
import { enrolmentKey, findEnrolmentByKey, findIssuedChain, type EnrolmentRow } from '../db/enrolments.ts';
import { registrationHash } from '../db/enrolments.ts';
import { findOwnedEnrolment, insertOwnershipToken } from '../db/ownership-tokens.ts';
import { findTemplate } from '../db/templates.ts';
import { judgeCsr } from '../pki/csr-policy.ts';
import { makeCsr, makeKeyPair } from '../pki/keys.ts';
import { provisionDevice, provisionDeviceId } from '../workflows/provision-device.ts';
import { registerDevice, requestCertificate, type RegisterDevice } from '../workflows/provision-device.ts';
import { findRefusal, refusal, type RefusalDetail } from '../workflows/refusals.ts';
import type { Identity } from './identity.ts';
import { startsProvisionDevice } from './lifecycles.ts';
import type { Session } from './messages.ts';
import type { Reply, Request } from './requests.ts';

export const keysRequest = z.object({});
export const csrRequest = z.object({ certificateSigningRequest: z.string() });
const scalar = z.union([z.string(), z.number(), z.boolean()]).transform(String);
export const registrationRequest = z.object({
  certificateOwnershipToken: z.string(),
  parameters: z.record(z.string(), scalar).default({}),
});

export type ProvisioningDeps = {
  db: Database;
  temporal: { client: Client; taskQueue: string };
  log: Pick<Logger, 'error' | 'warn'>;
  /** SHA-256 of the keys that no device may have: the authorities' own. */
  forbiddenSpki?: Uint8Array[];
  /** When a device is told that it should try again: before its client gives up, which agents do after 10 s. */
  answerWithinMs?: number;
};

type Claim = Extract<Identity, { kind: 'claim' }>;
export type Provisioning = ReturnType<typeof createProvisioning>;

/**
 * Enrolment over MQTT: a certificate for a claim, then a device for the certificate. The decisions are the lifecycle's;
 * here a request is judged, asked once although it came many times, and answered again from the rows.
 */
export function createProvisioning({
  db,
  temporal,
  log,
  forbiddenSpki = [],
  answerWithinMs = 8_000,
}: ProvisioningDeps) {
  const asking = createCoalescer();

  /** A certificate for the key of this request, and the token that owns it. */
  async function certify(claim: Claim, csr: string) {
    const judged = await judgeCsr(csr, { forbiddenSpki });
    if ('refused' in judged) throw refusal('InvalidCsr', `${judged.refused.reason}: ${judged.refused.detail}`, 400);
    const { publicKey } = judged.accepted;
    const key = enrolmentKey(claim.claimId, publicKey);
    const enrolment = await findStanding(claim, key);
    const issued = enrolment ?? (await asking(key, () => requestFromLifecycle(claim, key, publicKey)));
    return describeCertificate(claim, issued);
  }

  /** The enrolment that this request has already; a claim that has nothing left is told so without a workflow. */
  async function findStanding(claim: Claim, key: string) {
    const [row, standing] = await Promise.all([findClaim(db, claim.claimId), findEnrolmentByKey(db, key)]);
    if (!row) throw refusal('ClaimNotFound', 'the claim is not known', 403);
    if (row.revokedAt) throw refusal('ClaimRevoked', 'the claim is revoked', 403);
    if (row.expiresAt <= new Date()) throw refusal('ClaimExpired', 'the claim has expired', 403);
    if (standing)
      return { enrolmentId: standing.id, certificateId: standing.certificateId, closesAtMs: +standing.closesAt };
    if (row.uses < row.usesMax) return undefined;
    throw refusal('ClaimExhausted', `the claim's budget of ${row.usesMax} devices is used up`, 403);
  }

  async function requestFromLifecycle({ claimId, template }: Claim, key: string, publicKey: Uint8Array) {
    const request = { claimId, publicKey: Buffer.from(publicKey).toString('base64') };
    const startWorkflowOperation = new WithStartWorkflowOperation(provisionDevice, {
      ...startsProvisionDevice(request, template),
      workflowId: provisionDeviceId(key),
      taskQueue: temporal.taskQueue,
      args: [request],
      workflowIdConflictPolicy: 'USE_EXISTING',
    });
    return temporal.client.workflow.executeUpdateWithStart(requestCertificate, { startWorkflowOperation });
  }

  type Issued = { enrolmentId: string; certificateId: string; closesAtMs: number };

  async function describeCertificate(claim: Claim, { enrolmentId, certificateId, closesAtMs }: Issued) {
    const token = randomBytes(32).toString('base64url');
    const owner = { hash: hashToken(token), certificateId: claim.certificateId };
    const [certificatePem] = await Promise.all([
      findIssuedChain(db, certificateId),
      insertOwnershipToken(db, { ...owner, enrolmentId, expiresAt: new Date(closesAtMs) }),
    ]);
    if (!certificatePem) throw new Error(`certificate ${certificateId} was issued and has no row`);
    return { certificateId, certificatePem, certificateOwnershipToken: token };
  }

  /** The device that the token's enrolment has, or gets now. Asked again with the same parameters, the same. */
  async function registered(claim: Claim, token: string, registration: RegisterDevice) {
    const owner = { hash: hashToken(token), certificateId: claim.certificateId };
    const enrolment = await findOwnedEnrolment(db, owner);
    if (!enrolment) throw invalidToken();
    if (registration.template !== enrolment.template) {
      throw refusal('TemplateNotPermitted', `this claim is for template ${enrolment.template}`, 403);
    }
    const hash = registrationHash(registration);
    const answer = answerOf(enrolment, hash) ?? (await register(owner, enrolment, registration, hash));
    return { thingName: answer.deviceName, deviceConfiguration: answer.configuration };
  }

  function answerOf({ state, answer, registrationHash: first }: EnrolmentRow, hash: Buffer) {
    if (state === 'LAPSED') throw refusal('EnrolmentLapsed', 'the enrolment is over', 403);
    if (!answer) return undefined;
    if (hash.equals(first ?? Buffer.alloc(0))) return answer;
    throw refusal('AlreadyRegistered', 'this certificate was registered with other parameters', 409);
  }

  type Owner = Parameters<typeof findOwnedEnrolment>[1];

  async function register(owner: Owner, { key }: EnrolmentRow, registration: RegisterDevice, hash: Buffer) {
    const workflow = temporal.client.workflow.getHandle(provisionDeviceId(key));
    await asking(`${key} ${hash.toString('hex')}`, () =>
      workflow.executeUpdate(registerDevice, { args: [registration] }),
    );
    const enrolment = await findOwnedEnrolment(db, owner);
    const answer = enrolment && answerOf(enrolment, hash);
    if (!answer) throw new Error(`the enrolment ${key} was registered and has no answer`);
    return answer;
  }

  /** Answers within the time that a device waits: a refusal by its own name, all else as a matter of trying again. */
  async function reply(session: Session, work: (claim: Claim) => Promise<object>): Promise<Reply> {
    if (session.identity.kind !== 'claim') return { refused: unavailable('this takes a claim certificate') };
    try {
      const accepted = await inTime(
        temporal.client.withDeadline(Date.now() + answerWithinMs, () => work(session.identity as Claim)),
      );
      return accepted ? { accepted } : { refused: unavailable('the answer takes too long; try again') };
    } catch (error) {
      const refused = findRefusal(error);
      if (refused) return { refused };
      log.error({ err: error }, 'an enrolment could not be answered');
      return { refused: unavailable('the enrolment cannot be answered now; try again') };
    }
  }

  async function inTime<T>(work: Promise<T>): Promise<T | undefined> {
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<undefined>((resolve) => (timer = setTimeout(() => resolve(undefined), answerWithinMs)));
    return Promise.race([work, limit]).finally(() => clearTimeout(timer));
  }

  return {
    createFromCsr: ({ session, body }: Request<z.infer<typeof csrRequest>>): Promise<Reply> =>
      reply(session, (claim) => certify(claim, body.certificateSigningRequest)),

    /** Keys made here, where the template permits it. The private key stands in this answer and nowhere else. */
    createKeys: ({ session }: Request<object>): Promise<Reply> =>
      reply(session, async (claim) => {
        const template = await findTemplate(db, claim.template);
        if (!template?.definition.serverMadeKeys) {
          throw refusal(
            'ServerMadeKeysNotPermitted',
            `template ${claim.template} wants the device to make its key`,
            403,
          );
        }
        const pair = makeKeyPair();
        const certificate = await certify(claim, makeCsr(pair));
        return { ...certificate, privateKey: pair.privateKeyPem };
      }),

    register: ({ session, params, body }: Request<z.infer<typeof registrationRequest>>): Promise<Reply> =>
      reply(session, (claim) =>
        registered(claim, body.certificateOwnershipToken, {
          template: params['template'] ?? '',
          parameters: body.parameters,
        }),
      ),
  };
}

const hashToken = (token: string) => createHash('sha256').update(token).digest();

const invalidToken = () =>
  refusal('InvalidCertificateOwnershipToken', 'the token is unknown, over, or was given to somebody else', 400);

const unavailable = (detail: string): RefusalDetail => ({ code: 'ServiceUnavailable', detail, status: 503 });

/** Of equal requests under way, one is asked and all are answered: a workflow takes ten updates at a time. */
function createCoalescer() {
  const underWay = new Map<string, Promise<unknown>>();
  return <T>(key: string, ask: () => Promise<T>): Promise<T> => {
    // A key belongs to one kind of request, so what is under way has its type.
    const asked = (underWay.get(key) as Promise<T> | undefined) ?? ask().finally(() => underWay.delete(key));
    underWay.set(key, asked);
    return asked;
  };
}
