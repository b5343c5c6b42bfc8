import { hash } from 'node:crypto';
import { insertAudit } from '../db/audit.ts';
import { findDevice } from '../db/devices.ts';
import { findHookAnswer, findHookSecret, keepHookAnswer } from '../db/enrolment-decisions.ts';
import type { AskedRegistration, Evidence } from '../db/enrolment-schema.ts';
import { findTemplate, readDefinition } from '../db/templates.ts';
import { openHookSecret } from '../pki/hook-secrets.ts';
import { keyAlgorithmOf } from '../pki/public-keys.ts';
import { findRefusal, refusal } from '../workflows/refusals.ts';
import type { Deps } from './deps.ts';
import { ForbiddenDestination } from './destinations.ts';
import { fillTemplate } from './templates.ts';
import { createWebhooks, WebhookFailed } from './webhooks.ts';

type Question = {
  /** The idempotency key of this enrolment. */
  hookKey: string;
  claimId: string;
  publicKey: string;
  evidence: Evidence;
  registration: AskedRegistration;
};

type Said = { allow: boolean; parameters: Record<string, string> };

export function decisionHookActivities({ db, hooks }: Deps) {
  const call = createWebhooks(hooks ?? {});

  async function ask({ hookKey, claimId, registration, evidence, publicKey }: Question): Promise<Said> {
    const { template: name, parameters } = registration;
    const template = await findTemplate(db, name);
    const definition = template && readDefinition(template.definition);
    const secret = await findHookSecret(db, name);
    if (!definition?.hook || !secret || !hooks) throw new WebhookFailed('there is no hook, or no key to its secret');
    const device = fillTemplate(definition, parameters, evidence).name;
    const key = Buffer.from(publicKey, 'base64');
    const { names: _, ...fields } = evidence;
    const answer = await call({
      url: definition.hook.url,
      secret: openHookSecret(secret, name, hooks.sealingKey),
      id: hookKey,
      body: {
        type: 'enrolment.requested',
        timestamp: new Date().toISOString(),
        data: {
          template: name,
          claim: claimId,
          device,
          exists: (await findDevice(db, device)) !== undefined,
          parameters,
          ...fields,
          key: { algorithm: keyAlgorithmOf(key), spkiSha256: hash('sha256', key, 'hex') },
        },
      },
    });
    const said = readAnswer(answer, definition.parameters);
    if (said.allow) judgeOverrides(() => fillTemplate(definition, { ...parameters, ...said.parameters }, evidence));
    return said;
  }

  return {
    /**
     * Asks the template's hook whether the device may enrol, and keeps its answer. Repeating it is safe: an answer that is
     * kept stands, and a hook that is asked twice because a worker died sees the same `webhook-id`. A hook that gave no
     * answer, or one that cannot be understood, has denied this request; the next request asks again.
     */
    async askHook(question: Question): Promise<void> {
      const { hookKey: key, registration, claimId } = question;
      if (await findHookAnswer(db, key)) return;
      try {
        await keepHookAnswer(db, { key, template: registration.template, ...(await ask(question)) });
      } catch (error) {
        if (!(error instanceof WebhookFailed || error instanceof ForbiddenDestination)) throw error;
        const data = { code: 'HookFailed', detail: error.message };
        const subject = `template/${registration.template}`;
        await insertAudit(db, `claim/${claimId}`, { action: 'enrolment.refused', subject, data });
        throw refusal('HookFailed', 'the hook of the template gave no answer, so the enrolment is denied', 403);
      }
    },
  };
}

/** Only `"allow": true` allows. Of its parameters, only those that the template declares, as strings. */
function readAnswer(answer: unknown, declared: string[]): Said {
  if (typeof answer !== 'object' || answer === null || !('allow' in answer) || answer.allow !== true) {
    return { allow: false, parameters: {} };
  }
  const overrides: unknown = 'parameters' in answer ? answer.parameters : {};
  if (typeof overrides !== 'object' || overrides === null || Array.isArray(overrides)) throw badOverrides();
  const entries = Object.entries(overrides);
  if (!entries.every(([name, value]) => declared.includes(name) && typeof value === 'string')) throw badOverrides();
  return { allow: true, parameters: Object.fromEntries(entries) as Record<string, string> };
}

/** What the hook says is held to what a device is held to. */
function judgeOverrides(fill: () => unknown): void {
  try {
    fill();
  } catch (error) {
    throw findRefusal(error) ? badOverrides() : error;
  }
}

const badOverrides = () => new WebhookFailed('its parameters are not what the template takes');
