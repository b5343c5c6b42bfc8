import { findBlock } from '../db/blocks.ts';
import { wasKeyUsed } from '../db/certificates.ts';
import type { Database, Db } from '../db/client.ts';
import { askRecovery, countRecent, findRecovery, judgeRecovering, lockPolicyOf } from '../db/recoveries.ts';
import type { RecoveryState } from '../db/recovery-schema.ts';
import { refusal } from '../workflows/refusals.ts';
import { waitingForApproval } from './entrance.ts';
import { certificateRefused } from './peers.ts';
import type { Renewing } from './renewal.ts';

/**
 * Whether a device whose certificate ended while it was away may have another on it. Its policy has to let it, for so long
 * after the end, at so many a minute; what speaks against the certificate, the device or the new key outweighs that; and where
 * the policy says so an operator has to approve. What is granted is granted to this key alone. A no, and a not yet, is a
 * `Refusal`; the lifecycle looks at all of it again when it issues.
 */
export const createRecovery =
  ({ db }: { db: Database }) =>
  async (renewing: Renewing, spkiSha256: Buffer): Promise<void> => {
    const standing = await findRecovery(db, renewing.certificateId);
    const waits = standing?.recovery.state === 'WAITING' && spkiSha256.equals(standing.recovery.spkiSha256);
    const state = waits ? 'WAITING' : await db.transaction((tx) => ask(tx, renewing, spkiSha256));
    if (state === 'WAITING') throw notYet();
    if (state === 'DENIED') throw denied();
  };

async function ask(tx: Db, { deviceId, name, certificateId }: Renewing, spkiSha256: Buffer): Promise<RecoveryState> {
  const policy = await lockPolicyOf(tx, deviceId);
  const judged = await judgeRecovering(tx, { deviceId, certificateId });
  if (!policy || !judged) throw certificateRefused('UnknownCertificate');
  if (judged.refusal) throw refusal(judged.refusal, 'nobody can come back on this certificate', 403);
  if (await findBlock(tx, { name, spkiSha256 })) throw certificateRefused('DeviceBlocked');
  const before = (await findRecovery(tx, certificateId))?.recovery;
  if (before && (before.state === 'DENIED' || spkiSha256.equals(before.spkiSha256))) return before.state;
  if (await wasKeyUsed(tx, spkiSha256)) throw refusal('KeyInUse', 'a device that comes back needs a new key', 409);
  if ((await countRecent(tx, policy.name)) >= policy.perMinute) throw crowded();
  const state = policy.recoveryApproval ? 'WAITING' : 'GRANTED';
  await askRecovery(tx, { certificateId, deviceId, device: name, spkiSha256, policy: policy.name, state });
  return state;
}

const notYet = () =>
  refusal(waitingForApproval, 'an operator has to approve of this device; ask again later, with the same key', 503);
const denied = () => refusal('RecoveryDenied', 'an operator has denied that this device comes back', 403);
const crowded = () => refusal('RateExceeded', 'too many devices come back at once; ask again in a minute', 429);
