import { randomUUIDv7 } from 'node:crypto';
import type { Db } from '../db/client.ts';
import { findJob, insertJobs } from '../db/jobs.ts';
import { documentOf } from '../db/release-documents.ts';
import { listPreviousVersions, strandTargets, turnAround, type WayBack } from '../db/rollout-endings.ts';
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
    countStuck(row, stuck);
  }
}

/**
 * Stops the way back to a release that was revoked after its devices were turned around: a device is no more sent to what
 * is bad than brought to it. Who is installing it already may end, unless the plan stops those too. Gives the devices that
 * do not know yet that their execution has ended.
 */
export async function strand(tx: Db, { rollout, waves, at }: Locked): Promise<string[]> {
  const stranded = await strandTargets(tx, { rolloutId: rollout.id, at, statuses: stoppedStatuses(rollout) });
  for (const { wave, devices } of stranded) {
    const row = waves.find(({ number }) => number === wave);
    if (row) countStuck(row, devices);
  }
  return stranded.flatMap(({ unaware }) => unaware);
}

/** What is taken back when the rollout, or the way back to a release, stops. */
export const stoppedStatuses = ({ plan }: Locked['rollout']) =>
  plan.stopping === 'all' ? ['QUEUED', 'IN_PROGRESS'] : ['QUEUED'];

function countStuck(row: Locked['waves'][number], devices: number): void {
  if (devices === 0) return;
  row.undoVerdicts = { ...row.undoVerdicts, CANNOT_UNDO: (row.undoVerdicts.CANNOT_UNDO ?? 0) + devices };
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
