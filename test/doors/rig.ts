import { randomUUIDv7, randomBytes } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { localWire } from '../../gateway/wire.ts';
import type { Deps } from '../../activities/deps.ts';
import { insertClaim, type NewClaim } from '../../db/claims.ts';
import { enrolments, type TemplateDefinition } from '../../db/enrolment-schema.ts';
import { insertTemplate } from '../../db/templates.ts';
import { createEntrance, type Permit } from '../../doors/entrance.ts';
import type { Authority } from '../../pki/authority.ts';
import { mintClaimToken } from '../../pki/claim-tokens.ts';
import { mintHookSecret } from '../../pki/hook-secrets.ts';
import { makeCsr, makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { findRefusal } from '../../workflows/refusals.ts';
import { openClient, runWorker } from '../gateway/temporal.ts';
import { makeDatabase } from '../support/database.ts';
import { createFleet, startTestGateway, type Fleet } from '../support/gateway.ts';
import { sharedTemporal } from '../support/temporal.ts';

type Options = {
  /** What issues in place of the fleet's own authority. */
  signerOf?: (fleet: Fleet) => Authority;
  sweepEveryMs?: number;
};

export type Rig = Awaited<ReturnType<typeof openRig>>;

/** The entrance with all that is behind it: rows, lifecycles, and a gateway that enrolled devices connect to. */
export async function openRig(
  hooks: Omit<NonNullable<Deps['hooks']>, 'sealingKey'> = {},
  { signerOf = ({ authority }) => authority, sweepEveryMs }: Options = {},
) {
  await using opening = new AsyncDisposableStack();
  const { db } = opening.use(await makeDatabase());
  const fleet = await createFleet(db);
  const temporal = opening.use(openClient(sharedTemporal()));
  const sealingKey = randomBytes(32);
  const wire = localWire();
  const deps = { db, authority: signerOf(fleet), wire, hooks: { ...hooks, sealingKey } };
  opening.use(await runWorker(sharedTemporal(), temporal.taskQueue, deps));
  const gateway = opening.use(await startTestGateway(fleet, { temporal, wire, ...(sweepEveryMs && { sweepEveryMs }) }));
  const entrance = createEntrance({ db, temporal });
  const resources = opening.move();

  async function makeTemplate(part: Partial<TemplateDefinition> = {}) {
    const name = `line-${randomBytes(4).toString('hex')}`;
    const definition = {
      namePattern: `${name}-\${serial}`,
      parameters: ['serial'],
      attributes: { line: name },
      configuration: { broker: 'b.${serial}' },
      lifetimeDays: 90,
      serverMadeKeys: false,
      ...part,
    };
    const { secret, sealed } = mintHookSecret(name, sealingKey);
    await insertTemplate(db, 'system/test', { name, definition }, sealed);
    return { template: name, hookSecret: secret };
  }

  async function makeToken(template: string, part: Partial<NewClaim> = {}) {
    const id = randomUUIDv7();
    const { token, tokenHash } = mintClaimToken(id);
    const expiresAt = new Date(Date.now() + 3_600_000);
    const claim = { id, template, usesMax: 10, ratePerMinute: 1_000, deviceNames: null, spkiSha256: null, expiresAt };
    await insertClaim(db, 'system/test', { ...claim, ...part }, { tokenHash });
    const permit: Permit = { claimId: id, template };
    return { permit, token };
  }

  const enrol = (permit: Permit, serial: string, key: KeyPair = makeKeyPair(), commonName?: string) =>
    entrance.enrol(permit, { csr: makeCsr(key, commonName), parameters: { serial } });
  /** The code of the refusal. */
  const refused = (work: Promise<unknown>) =>
    work.then(
      () => 'accepted',
      (error: unknown) => findRefusal(error)?.code ?? error,
    );
  const enrolmentOf = async ({ claimId }: Permit) =>
    (await db.select().from(enrolments).where(eq(enrolments.claimId, claimId)).orderBy(enrolments.id)).at(-1);

  return {
    db,
    fleet,
    temporal,
    wire,
    gateway,
    entrance,
    sealingKey,
    makeTemplate,
    makeToken,
    enrol,
    refused,
    enrolmentOf,
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
