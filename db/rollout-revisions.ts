import { createHash } from 'node:crypto';
import type { Db } from './client.ts';
import { findJob } from './jobs.ts';
import type { RolloutPlan } from './rollout-plan.ts';
import type { RolloutRow } from './rollouts.ts';

/** What was asked: the plan, and the release or the document that devices are told. */
type Asked = { name: string; plan: RolloutPlan } & ({ release: string } | { document: string });

/** SHA-256 over the canonical JSON (RFC 8785) of what was asked: what an approval is of. */
export const hashAsked = (asked: Asked): Uint8Array => createHash('sha256').update(canonicalJson(asked)).digest();

/** The same text for the same value, in whatever order its members come. */
export const canonicalJson = (value: unknown): string => JSON.stringify(canonical(value)) ?? '';

function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).toSorted(([left], [right]) => (left < right ? -1 : 1));
  return Object.fromEntries(entries.map(([key, member]) => [key, canonical(member)]));
}

/** What a rollout with another plan has in its columns. */
export async function revise(db: Db, { name, releaseId, jobId, revision }: RolloutRow, plan: RolloutPlan) {
  const told = releaseId === null ? { document: (await findJob(db, jobId))?.document ?? '' } : { release: releaseId };
  return { plan, planHash: hashAsked({ name, plan, ...told }), revision: revision + 1 };
}
