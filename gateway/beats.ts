import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import { beatGateway, buryGateways, stopGateway } from '../db/gateways.ts';
import { createPeriodic } from './periodic.ts';

export type BeatsDeps = {
  db: Db;
  gatewayId: string;
  address: string;
  log: Pick<Logger, 'warn'>;
  debounceMs: number;
  /** The database did not take a beat, or takes long to. */
  lost: (error: unknown) => void;
  /** It did, and this is its time. */
  beaten?: (at: Date) => void;
  beatEveryMs?: number;
  deadAfterMs?: number;
};

export type Beats = {
  /** Ends this gateway in good order. */
  stop(): Promise<void>;
};

/**
 * This gateway's beat, and its judgement over the others'. It judges nobody dead until it has itself seen the database
 * without an interruption for as long as a gateway may be silent, by the database's clock: after an outage all beats are
 * old, and the first gateway back would otherwise declare the fleet offline.
 */
export async function startBeats(deps: BeatsDeps): Promise<Beats> {
  const {
    db,
    gatewayId,
    address,
    log,
    debounceMs,
    beatEveryMs = 5_000,
    deadAfterMs = 20_000,
    lost,
    beaten: heard,
  } = deps;
  const beatMaxMs = Math.min(beatEveryMs, 3_000);
  const silentMaxMs = 2 * beatEveryMs;
  let seenSince = Infinity;
  let seenUntil = -Infinity;

  async function beat(): Promise<void> {
    const slow = setTimeout(() => lost(new Error(`a beat takes longer than ${beatMaxMs} ms`)), beatMaxMs);
    const beaten = await beatGateway(db, { id: gatewayId, address }).finally(() => clearTimeout(slow));
    heard?.(beaten);
    const now = beaten.getTime();
    if (now - seenUntil > silentMaxMs || now < seenUntil) seenSince = now;
    seenUntil = now;
    if (now - seenSince < deadAfterMs) return;
    const dead = await buryGateways(db, { at: beaten, deadAfterMs, debounceMs });
    if (dead.length > 0) log.warn({ dead }, 'gateways are dead, and their sessions closed');
  }

  await beat();
  const work = () =>
    beat().catch((error: unknown) => {
      lost(error);
      throw error;
    });
  const periodic = createPeriodic({ name: 'the beat', everyMs: beatEveryMs, work, log });
  return {
    async stop() {
      await periodic.stop();
      await stopGateway(db, gatewayId);
    },
  };
}
