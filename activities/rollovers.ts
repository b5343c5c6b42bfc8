import { findAuthority } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import * as rollovers from '../db/rollovers.ts';
import { countAcknowledged, endStaleBundleOrders, findTrustBundle, orderTrustBundle } from '../db/trust-bundles.ts';
import { refusal } from '../workflows/refusals.ts';
import type { RolloverOutcome, RolloverStanding } from '../workflows/rollover-authority.ts';
import { rotateExpiringId } from '../workflows/rotate-expiring.ts';
import type { Deps } from './deps.ts';

const runs = { idPrefix: rotateExpiringId(''), name: 'rotateExpiring' };
const actor = 'system/lifecycle';
const pageMax = 1_000;

export const rolloverActivities = ({ db, wire }: Pick<Deps, 'db' | 'wire'>) => ({
  /**
   * Tells every device of the roots that are trusted, those that came since included, and says how many have yet to acknowledge
   * that of this authority. Repeating it is safe: nobody is told twice.
   */
  async tellOfRoot({ authorityId }: { authorityId: string }): Promise<RolloverStanding> {
    const rollover = await rollovers.findRollover(db, authorityId);
    if (!rollover) throw refusal('RolloverNotFound', 'nobody has asked for this rollover', 404);
    const bundle = await findTrustBundle(db);
    if (bundle?.jobId) await tell({ db, wire }, bundle.jobId);
    const { waiting, state } = await judge(db, authorityId);
    const leftMs = Math.max(0, rollover.acknowledgeBy.getTime() - Date.now());
    return {
      waiting,
      readyInMs: waiting === 0 || state !== 'STANDBY' ? 0 : leftMs,
      switched: rollover.switchedAt !== null,
    };
  },

  /** Has the authority issue in place of all others; false when it cannot any more. Repeating it changes nothing. */
  async switchAuthority({ authorityId }: { authorityId: string }): Promise<boolean> {
    const { waiting: unacknowledged } = await judge(db, authorityId);
    return rollovers.switchAuthority(db, actor, { authorityId, runs, unacknowledged });
  },

  /** How many certificates live under authorities that issue no more. Reading only. */
  countReplaceable: async (): Promise<{ left: number }> => ({ left: await rollovers.countDisplaced(db) }),

  /** Ends the rollover and records how. Repeating it is safe: the row ends once, together with its entry. */
  async finishRollover({ authorityId, outcome }: { authorityId: string; outcome: RolloverOutcome }): Promise<void> {
    await rollovers.finishRollover(db, actor, authorityId, outcome);
  },
});

/** Page after page, so that no statement locks the whole fleet. */
async function tell({ db, wire }: Pick<Deps, 'db' | 'wire'>, jobId: string): Promise<void> {
  await endStaleBundleOrders(db, jobId);
  for (let after: string | undefined; ;) {
    const orders = await orderTrustBundle(db, { jobId, after, limit: pageMax });
    if (orders.length > 0) wire.tell({ orders });
    if (orders.length < pageMax) return;
    after = orders.at(-1);
  }
}

/** How many devices have yet to acknowledge the root of the authority, and how that stands. */
async function judge(db: Db, authorityId: string) {
  const authority = await findAuthority(db, authorityId);
  const root = authority?.parentId ? await findAuthority(db, authority.parentId) : undefined;
  if (!authority || !root) throw refusal('AuthorityNotFound', 'the authority, or its root, is not there', 404);
  const { devices, acknowledged } = await countAcknowledged(db, root.certificatePem);
  return { waiting: devices - acknowledged, state: authority.state };
}
