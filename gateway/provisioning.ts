import { hash, randomBytes } from 'node:crypto';
import { z } from 'zod';
import type { Database } from '../db/client.ts';
import { findOwnedEnrolment, insertOwnershipToken } from '../db/ownership-tokens.ts';
import { findTemplate } from '../db/templates.ts';
import { createAnswers, unavailable, type AnswersDeps } from '../doors/answers.ts';
import { createEntrance, type EntranceDeps } from '../doors/entrance.ts';
import { createRenewal } from '../doors/renewal.ts';
import { makeCsr, makeKeyPair } from '../pki/keys.ts';
import { refusal } from '../workflows/refusals.ts';
import type { Identity } from './identity.ts';
import type { Session } from './messages.ts';
import type { Reply, Request } from './requests.ts';

export const keysRequest = z.object({});
export const csrRequest = z.object({ certificateSigningRequest: z.string() });
const scalar = z.union([z.string(), z.number(), z.boolean()]).transform(String);
export const registrationRequest = z.object({
  certificateOwnershipToken: z.string(),
  parameters: z.record(z.string(), scalar).default({}),
});

export type ProvisioningDeps = EntranceDeps & AnswersDeps & { db: Database };

type Claim = Extract<Identity, { kind: 'claim' }>;
export type Provisioning = ReturnType<typeof createProvisioning>;

/**
 * The door of AWS fleet provisioning: a certificate for a claim, then a device for the certificate, which a token tells
 * apart from others of the same claim. A device asks here as well, on its own certificate, for the one that replaces it.
 */
export function createProvisioning(deps: ProvisioningDeps) {
  const { db } = deps;
  const entrance = createEntrance(deps);
  const renew = createRenewal(deps);
  const answer = createAnswers(deps);

  /** A certificate for the key of this request, and the token that owns it. */
  async function certify(claim: Claim, csr: string) {
    const { enrolmentId, certificateId, certificatePem, closesAtMs } = await entrance.certify(claim, csr);
    const token = randomBytes(32).toString('base64url');
    const owner = { hash: hashToken(token), certificateId: claim.certificateId };
    await insertOwnershipToken(db, { ...owner, enrolmentId, expiresAt: new Date(closesAtMs) });
    return { certificateId, certificatePem, certificateOwnershipToken: token };
  }

  async function register(claim: Claim, token: string, template: string, parameters: Record<string, string>) {
    const enrolment = await findOwnedEnrolment(db, { hash: hashToken(token), certificateId: claim.certificateId });
    if (!enrolment) throw invalidToken();
    const { deviceName, configuration } = await entrance.register(enrolment, { template, parameters });
    return { thingName: deviceName, deviceConfiguration: configuration };
  }

  async function reply({ identity }: Session, work: (claim: Claim) => Promise<object>): Promise<Reply> {
    if (identity.kind !== 'claim') return { refused: unavailable('this takes a claim certificate') };
    return answer(() => work(identity));
  }

  return {
    createFromCsr: ({ session, body }: Request<z.infer<typeof csrRequest>>): Promise<Reply> => {
      const { identity } = session;
      const csr = body.certificateSigningRequest;
      // There is nothing to own: the device has a name. Clients read the field, so it is there.
      if (identity.kind === 'device')
        return answer(async () => ({ ...(await renew(identity, csr)), certificateOwnershipToken: '' }));
      return reply(session, (claim) => certify(claim, csr));
    },

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
        register(claim, body.certificateOwnershipToken, params['template'] ?? '', body.parameters),
      ),
  };
}

const hashToken = (token: string) => hash('sha256', token, 'buffer');

const invalidToken = () =>
  refusal('InvalidCertificateOwnershipToken', 'the token is unknown, over, or was given to somebody else', 400);
