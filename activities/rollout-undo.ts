import { randomUUIDv7 } from 'node:crypto';
import type { Db } from '../db/client.ts';
import { findJob, insertJobs } from '../db/jobs.ts';
import { documentOf } from '../db/release-documents.ts';
import { listPreviousVersions, turnAround, type WayBack } from '../db/rollout-endings.ts';
import { findReleasesOf } from '../db/rollout-releases.ts';
import type { Locked } from './rollout-review.ts';

/**
 * Turns the devices that run the rollout's release around, each to the release that it ran before: one job for every such
 * release. Where there is no way back that a device would take, it cannot go back, and the reason says why.
 */
export async function sendBack(tx: Db, { rollout, release, waves, at }: Locked): Promise<void> {
  rollout.sentBackAt = at;
  if (!release) return;
  const versions = await listPreviousVersions(tx, { rolloutId: rollout.id, release });
  const candidates = await findReleasesOf(tx, release.product, versions);
  const ways: WayBack[] = [];
  const blocked: Record<string, string> = {};
  const forward = await findJob(tx, rollout.jobId);
  const jobs = versions.flatMap((version) => {
    const previous = candidates.find((candidate) => candidate.version === version);
    const fault = faultOf(previous, release);
    if (!previous || fault) {
      blocked[version] = `it cannot go back to ${version}: ${fault}`;
      return [];
    }
    const id = randomUUIDv7();
    ways.push({ version, jobId: id });
    const content = { document: documentOf(previous), releaseId: previous.id };
    return [{ ...forward, id, rolloutId: rollout.id, ...content, createdAt: at }];
  });
  await insertJobs(tx, jobs);
  for (const { wave, devices, stuck } of await turnAround(tx, { rolloutId: rollout.id, at, release, ways, blocked })) {
    const row = waves.find(({ number }) => number === wave);
    if (!row) continue;
    row.undoTargets += devices;
    if (stuck > 0) row.undoVerdicts = { ...row.undoVerdicts, CANNOT_UNDO: (row.undoVerdicts.CANNOT_UNDO ?? 0) + stuck };
  }
}

type Candidate = Awaited<ReturnType<typeof findReleasesOf>>[number];

/** Why devices would not take that release from this one. */
function faultOf(previous: Candidate | undefined, from: NonNullable<Locked['release']>): string | undefined {
  if (!previous) return 'there is no such release, or it was revoked';
  if (previous.expiresAt <= new Date()) return 'its manifest has expired';
  if (!previous.downgrade && previous.securityCounter < from.securityCounter) {
    return `its security counter ${previous.securityCounter} is below ${from.securityCounter}`;
  }
  if (previous.allowedFrom && !previous.allowedFrom.includes(from.version)) {
    return `its manifest does not allow it from ${from.version}`;
  }
  return undefined;
}
