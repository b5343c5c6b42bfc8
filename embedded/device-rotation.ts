import { makeCsr } from '../pki/keys.ts';
import { ask, CertificateRefused } from './device-asking.ts';
import type { Connection } from './device-connection.ts';
import type { DeviceFolder } from './device-folder.ts';
import type { Verdict } from './device-job-journal.ts';
import type { Power } from './device-power.ts';
import { createFromCsrTopic } from './device-topics.ts';

export type RotationDeps = {
  folder: Pick<DeviceFolder, 'state' | 'successor'>;
  power: Power;
  /** The connection that stands, once there is one. */
  connected: () => Promise<Connection>;
};

const passing = /Internal|Throttl|Unavailable|^5\d\d$/;

/**
 * Replaces the device's certificate: a key of its own, a certificate for it, asked for on the one that it has, and a
 * connection with it, which is made because there is one to try (`device-life.ts`). Only what has connected is lived by.
 * After a power cut it goes on from what the disk says.
 */
export async function rotate(
  { certificateId }: { certificateId: string },
  { folder, power, connected }: RotationDeps,
): Promise<Verdict> {
  const { successor, state } = folder;
  const hasReplaced = () => ![undefined, certificateId].includes(state().certificateId);
  for (let asked = false; ;) {
    const client = await connected();
    // Looked at when it is connected: that may have been with the new one.
    if (hasReplaced()) return { status: 'SUCCEEDED', statusDetails: {} };
    if (!successor.credentials()) {
      // It was asked for, tried, and the fleet did not want it.
      if (asked) return failed('NOT_WANTED: the fleet has refused the new certificate');
      const refusal = await askOn(client);
      if (refusal) return failed(refusal);
      asked = true;
    }
    if (client.connected) await client.endAsync();
    power.signal.throwIfAborted();
  }

  /** Asks until there is an answer, and keeps it; gives why it is no. */
  async function askOn(client: Connection): Promise<string | undefined> {
    const privateKeyPem = successor.privateKey();
    power.reach('key-kept');
    const request = { certificateSigningRequest: makeCsr({ privateKeyPem }) };
    for (let over = client; ; over = await connected()) {
      try {
        const issued = await ask(over, createFromCsrTopic, request);
        power.reach('certificate-issued');
        const { certificateId: id, certificatePem } = issued;
        successor.keep({ certificateId: String(id), certificatePem: String(certificatePem) });
        power.reach('certificate-kept');
        return undefined;
      } catch (error) {
        power.signal.throwIfAborted();
        if (!(error instanceof CertificateRefused) || passing.test(error.code)) continue;
        successor.drop();
        return error.message;
      }
    }
  }
}

const failed = (reason: string): Verdict => ({ status: 'FAILED', statusDetails: { reason } });
