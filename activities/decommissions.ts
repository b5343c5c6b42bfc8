import { insertAudit } from '../db/audit.ts';
import { cancelCommandsOf } from '../db/command-endings.ts';
import { findDecommission, finishDecommission, listAuthoritiesOf, revokeCertificatesOf } from '../db/decommissions.ts';
import { eraseDevice } from '../db/erasure.ts';
import { removeExecutions } from '../db/execution-endings.ts';
import { probeFeed } from '../db/feed.ts';
import { appendToOutbox } from '../db/outbox.ts';
import { findDeviceName, findOpenRotation } from '../db/rotations.ts';
import { refusal } from '../workflows/refusals.ts';
import { rotateCertificateId, rotationOver } from '../workflows/rotate-certificate.ts';
import { rolloutProgressed, runRolloutId } from '../workflows/run-rollout.ts';
import { commandProgressed, sendCommandId } from '../workflows/send-command.ts';
import type { Deps } from './deps.ts';
import { publishRevocationList } from './revocation-lists.ts';
import { judgeStanding, type Probed } from './revocations.ts';

const rolloutPoke = { workflowIdPrefix: runRolloutId(''), signal: rolloutProgressed.name };
const commandPoke = { workflowIdPrefix: sendCommandId(''), signal: commandProgressed.name };

export const decommissionActivities = ({ db, authority, lists = async () => [authority], wire }: Deps) => ({
  /** Revokes what lives of the device's certificates. Repeating it is safe: what is revoked is left as it is. */
  async revokeDevice({ deviceId }: { deviceId: string }): Promise<void> {
    if (!(await findDecommission(db, deviceId))) throw refusal('NotDecommissioned', 'nobody asked for this', 404);
    if ((await revokeCertificatesOf(db, deviceId, 'cessationOfOperation')) > 0) wire.tell({ feed: true });
  },

  /** Publishes lists that tell of its certificates. Repeating it is safe: where they do already, none is made. */
  async listRevocationsOf({ deviceId }: { deviceId: string }): Promise<void> {
    const lacking = await listAuthoritiesOf(db, deviceId);
    for (const signer of await lists()) if (lacking.includes(signer.id)) await publishRevocationList(db, signer);
  },

  /** Whether no session of the device is open, and every gateway that lives has looked. Reading only. */
  async probeDevice({ deviceId }: { deviceId: string }): Promise<Probed> {
    const decommission = await findDecommission(db, deviceId);
    if (!decommission) throw refusal('NotDecommissioned', 'nobody asked for this', 404);
    return judgeStanding(await probeFeed(db, { feedId: decommission.feedId, deviceId }));
  },

  /** Ends its executions and commands, and has those judged who wait for them. Repeating it is safe: what ended stays so. */
  async endWork({ deviceId }: { deviceId: string }): Promise<void> {
    await db.transaction(async (tx) => {
      await removeExecutions(tx, { deviceId, reason: 'the device was decommissioned', poke: rolloutPoke });
      await cancelCommandsOf(tx, { deviceId, poke: commandPoke });
      const rotation = await findOpenRotation(tx, deviceId);
      if (rotation) await appendToOutbox(tx, [rotationIsOver(await findDeviceName(tx, deviceId))]);
    });
  },

  /** Erases its data and records that. Repeating it is safe: there is less to erase, and the row ends once, with its entry. */
  async eraseDevice(request: { deviceId: string; device: string; unheard: string[] }): Promise<string> {
    const { deviceId, device, unheard } = request;
    return db.transaction(async (tx) => {
      const erased = await eraseDevice(tx, deviceId);
      if (await finishDecommission(tx, deviceId)) {
        const entry = { action: 'device.erased' as const, subject: `device/${device}`, data: { erased, unheard } };
        await insertAudit(tx, 'system/lifecycle', entry);
      }
      return `${device} is decommissioned. Its data is erased; its name and the audit stay.`;
    });
  },
});

const rotationIsOver = (device: string) => ({
  kind: 'signal' as const,
  workflowId: rotateCertificateId(device),
  name: rotationOver.name,
  argument: {},
});
