import type { Db } from '../db/client.ts';
import { admitTargets, listZones } from '../db/rollout-admission.ts';
import { isZone } from '../db/rollout-plan.ts';
import type { UnderWay } from '../db/rollout-standing.ts';
import type { RolloutRow } from '../db/rollouts.ts';
import { sumOf } from './rollout-decisions.ts';
import type { Locked } from './rollout-review.ts';
import { openingAt } from './rollout-windows.ts';

export type Admission = {
  told: string[];
  /** Whether there is room for more at once. */
  more: boolean;
  /** When the clock makes room: the next window, or the next minute's share. */
  nextAt: Date | undefined;
};

/** A page is told in a tenth of a second; what a large cap leaves room for comes with the next review. */
const pageMax = 1_000;
const minuteMs = 60_000;

/** Tells the next devices: as many as cap and rate leave room for, while a window is open. */
export async function admit(tx: Db, locked: Locked, { parts }: UnderWay): Promise<Admission> {
  const { rollout, release, at, waves } = locked;
  const nobody = { told: [], more: false, nextAt: undefined };
  const direction = directionOf(rollout);
  if (!direction) return nobody;
  const opening = await findOpening(tx, locked);
  if (!opening.open) return { ...nobody, nextAt: opening.changesAt };

  const inFlight = parts.reduce((sum, part) => sum + part.inFlight, 0);
  const share = shareOf(locked);
  const room = Math.min(rollout.plan.pace.inFlightMax - inFlight, share.left, pageMax);
  const waits = { ...nobody, nextAt: share.left <= 0 ? share.renewsAt : opening.changesAt };
  if (room <= 0) return waits;
  const { plan, id: rolloutId, jobId, wave, priority } = rollout;
  const admitted = await admitTargets(tx, {
    rolloutId,
    jobId,
    at,
    direction,
    wave: direction === 'FORWARD' ? wave : waves.length,
    room,
    priority,
    startWithinSeconds: plan.timers.startWithinSeconds,
    release: release ?? undefined,
    zones: opening.zones,
  });
  for (const { wave: number, skipped } of admitted) {
    const row = waves.find((candidate) => candidate.number === number);
    if (!row || !skipped) continue;
    if (direction === 'FORWARD') row.verdicts = { ...row.verdicts, SKIPPED: (row.verdicts.SKIPPED ?? 0) + 1 };
    else row.undoVerdicts = { ...row.undoVerdicts, CANNOT_UNDO: (row.undoVerdicts.CANNOT_UNDO ?? 0) + 1 };
  }
  const told = admitted.flatMap(({ deviceId, skipped }) => (skipped ? [] : [deviceId]));
  if (plan.pace.perMinute !== undefined) rollout.rateLeft = share.left - told.length;
  const isSpent = share.left - told.length <= 0;
  const skipped = admitted.length - told.length;
  const more = admitted.length === pageMax || skipped > 0;
  return { told, more, nextAt: isSpent ? share.renewsAt : opening.changesAt };
}

function directionOf({ state, sentBackAt }: RolloutRow): 'FORWARD' | 'BACK' | undefined {
  if (state === 'RUNNING') return 'FORWARD';
  return state === 'UNDOING' && sentBackAt ? 'BACK' : undefined;
}

/** What is left of this minute's share. The share grows with the devices that have succeeded. */
function shareOf({ rollout, waves, at }: Locked): { left: number; renewsAt: Date } {
  const { perMinute, growth } = rollout.plan.pace;
  if (perMinute === undefined) return { left: Infinity, renewsAt: at };
  if (at.getTime() - rollout.rateAt.getTime() >= minuteMs) {
    const succeeded = sumOf(waves).SUCCEEDED ?? 0;
    const grown = growth ? perMinute * growth.factor ** Math.floor(succeeded / growth.afterSuccesses) : perMinute;
    rollout.rateAt = at;
    rollout.rateLeft = Math.floor(Math.min(grown, growth?.perMinuteMax ?? grown));
  }
  return { left: rollout.rateLeft, renewsAt: new Date(rollout.rateAt.getTime() + minuteMs) };
}

type Zones = { attribute: string; known: string[]; open: string[]; elsewhere: boolean };

/** Whether a window is open: in the rollout's zone, or in which of its devices' zones. */
async function findOpening(
  tx: Db,
  { rollout, at }: Locked,
): Promise<{ open: boolean; changesAt: Date | undefined; zones: Zones | undefined }> {
  const { windows } = rollout.plan;
  if (!windows) return { open: true, changesAt: undefined, zones: undefined };
  const { zone, open: spans } = windows;
  if (typeof zone === 'string') return { ...openingAt(spans, zone, at), zones: undefined };
  const known = (await listZones(tx, rollout.id, zone.attribute)).filter(isZone);
  const openings = known.map((name) => ({ name, ...openingAt(spans, name, at) }));
  const elsewhere = openingAt(spans, zone.default, at);
  const open = openings.filter((opening) => opening.open).map(({ name }) => name);
  const changes = [...openings, elsewhere].flatMap(({ changesAt }) => (changesAt ? [changesAt.getTime()] : []));
  return {
    open: open.length > 0 || elsewhere.open,
    changesAt: changes.length > 0 ? new Date(Math.min(...changes)) : undefined,
    zones: { attribute: zone.attribute, known, open, elsewhere: elsewhere.open },
  };
}
