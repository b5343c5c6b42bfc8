import { listUnknownArtifacts } from './artifacts.ts';
import type { Db } from './client.ts';
import { compileFilter, FilterFault } from './filters.ts';
import { findRelease } from './releases.ts';
import type { RolloutPlan } from './rollout-plan.ts';
import { findFleetCounter } from './rollout-releases.ts';
import { findDeviceFields, groupsNamedBy, listUnknownDevices, resolveGroups, targetCondition } from './targets.ts';

/** What is wrong with a rollout that was asked for, and where in the request. */
export type RolloutFault = { path: (string | number)[]; detail: string };

/** What devices are to be told: a release, or a document with the artifacts whose addresses it asks for. */
export type Told = { release: string } | { document: string; artifacts: string[] };

/** Everything that the fleet as it is has against a rollout. */
export async function listRolloutFaults(db: Db, plan: RolloutPlan, told: Told): Promise<RolloutFault[]> {
  const aboutJob = 'release' in told ? await judgeRelease(db, told.release) : await judgeArtifacts(db, told.artifacts);
  return [...aboutJob, ...(await judgeTargets(db, plan.targets)), ...(await judgeWaves(db, plan.waves))];
}

async function judgeRelease(db: Db, id: string): Promise<RolloutFault[]> {
  const fault = (detail: string) => [{ path: ['release'], detail }];
  const { release } = (await findRelease(db, id)) ?? {};
  if (!release) return fault('there is no such release');
  if (release.revokedAt) return fault('the release is revoked');
  if (release.expiresAt <= new Date()) return fault(`its manifest expired at ${release.expiresAt.toISOString()}`);
  const counter = await findFleetCounter(db, release.product);
  if (counter === null || release.downgrade || release.securityCounter >= counter) return [];
  return fault(
    `its security counter ${release.securityCounter} is below ${counter}, which devices have already; a way back is signed as one (downgrade)`,
  );
}

async function judgeArtifacts(db: Db, artifacts: string[]): Promise<RolloutFault[]> {
  const unknown = await listUnknownArtifacts(db, artifacts);
  return unknown.map((sha256) => ({ path: ['job', 'document'], detail: `there is no artifact ${sha256}` }));
}

async function judgeTargets(db: Db, targets: RolloutPlan['targets']): Promise<RolloutFault[]> {
  const { devices = [], groups = [], filter } = targets;
  const unknown = [
    ...(await listUnknown('devices', devices, (names) => listUnknownDevices(db, names))),
    ...(await listUnknown('groups', groups, async (names) => (await resolveGroups(db, names)).unknown)),
  ];
  if (unknown.length > 0) return unknown;
  const path = ['targets', ...(filter === undefined ? [] : ['filter'])];
  return judging(path, async () => {
    const { groups: named } = await resolveGroups(db, groupsNamedBy(targets));
    targetCondition(targets, named);
  });
}

async function listUnknown(
  list: string,
  names: string[],
  find: (names: string[]) => Promise<string[]>,
): Promise<RolloutFault[]> {
  if (names.length === 0) return [];
  const unknown = await find(names);
  return unknown.map((name) => ({ path: ['targets', list, names.indexOf(name)], detail: `${name} is not known` }));
}

async function judgeWaves(db: Db, waves: RolloutPlan['waves']): Promise<RolloutFault[]> {
  const faults: RolloutFault[] = [];
  for (const [index, { filter }] of waves.entries()) {
    if (filter === undefined) continue;
    const compile = async () => compileFilter(filter, await findDeviceFields(db, filter));
    faults.push(...(await judging(['waves', index, 'filter'], compile)));
  }
  return faults;
}

async function judging(path: RolloutFault['path'], work: () => Promise<unknown>): Promise<RolloutFault[]> {
  try {
    await work();
    return [];
  } catch (error) {
    if (error instanceof FilterFault) return [{ path, detail: error.message }];
    throw error;
  }
}
