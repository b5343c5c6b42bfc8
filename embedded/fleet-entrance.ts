import { join } from 'node:path';
import { z } from 'zod';
import { refused, request, type Api } from './api-requests.ts';
import { hardware } from './demonstration.ts';
import { readFileIfThere, writeSecretFile } from './secret-files.ts';

/** What is kept of the answer to POST /v1/claims. The private key stands in that answer only. */
const claimSchema = z.object({
  template: z.string(),
  certificateId: z.string(),
  expiresAt: z.string(),
  certificate: z.object({ certificatePem: z.string(), privateKey: z.string() }),
});

/** A permission to enrol under a template. */
export type Claim = z.infer<typeof claimSchema>;

const claimsSchema = z.object({ items: z.array(z.object({ revokedAt: z.string().nullable() })) });

const definition = { namePattern: '${serial}', parameters: ['serial'], attributes: { hardware } };
const template = { name: 'default', definition };
const newClaim = { template: template.name, usesMax: 100_000, ratePerMinute: 6_000, expiresInHours: 365 * 24 };
const renewBeforeMs = 86_400_000;

/**
 * Makes the template `default` and a claim for it, as any operator would: through the public API. The claim is kept for
 * the next start; another is made when it was revoked or ends within a day. `isNew`: nothing was kept, as at a first start.
 */
export async function ensureFleetEntrance(api: Api, dataDir: string): Promise<{ claim: Claim; isNew: boolean }> {
  const file = join(dataDir, 'claim.json');
  const kept = await readFileIfThere(file);
  const keptClaim = kept === undefined ? undefined : claimSchema.parse(JSON.parse(kept));
  if (keptClaim && (await isUsable(api, keptClaim))) return { claim: keptClaim, isNew: false };

  const made = await request(api, 'POST', '/v1/templates', template);
  if (!made.ok && made.status !== 409) throw await refused('the template', made);
  const answer = await request(api, 'POST', '/v1/claims', newClaim);
  if (!answer.ok) throw await refused('the claim', answer);
  const claim = claimSchema.parse(await answer.json());
  await writeSecretFile(file, `${JSON.stringify(claim, null, 2)}\n`);
  return { claim, isNew: keptClaim === undefined };
}

async function isUsable(api: Api, { certificateId, expiresAt }: Claim): Promise<boolean> {
  if (Date.parse(expiresAt) < Date.now() + renewBeforeMs) return false;
  const filter = encodeURIComponent(`certificateId==${certificateId}`);
  const answer = await request(api, 'GET', `/v1/claims?filter=${filter}`);
  if (!answer.ok) throw await refused('the list of claims', answer);
  return claimsSchema.parse(await answer.json()).items.some(({ revokedAt }) => revokedAt === null);
}
