import { proxyLocalActivities, sleep } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { untilItIsDone } from './policies.ts';

export type RevokeCertificate = {
  /** Its row says REVOKED already: from that moment on no gateway lets it in. */
  certificateId: string;
  /** How long gateways that do not answer are waited for. */
  proveWithinMs?: number;
};

export const revokeCertificateId = (certificateId: string) => `revoke-certificate/${certificateId}`;

const { probeRevocation, listRevocation, finishRevocation } = proxyLocalActivities<Activities>(untilItIsDone);

/** What lives is cut within this; the list does not wait for a gateway that is away. */
const cutWithinMs = 5_000;

/**
 * A revoked certificate goes out of use everywhere. Its row denied it before this began: here its sessions are seen to be
 * cut, the list of revoked certificates is published with it, every gateway that lives has shown that it knows, and the audit
 * gets the times that all of this took.
 */
export async function revokeCertificate(request: RevokeCertificate): Promise<string> {
  const { certificateId, proveWithinMs = 10 * 60_000 } = request;
  display({ details: `Certificate ${certificateId} is denied. Waiting for its sessions to be cut.`, status: 'DENIED' });
  await untilProven(certificateId, Math.min(cutWithinMs, proveWithinMs));
  await listRevocation({ certificateId });
  display({ details: 'It is on the list. Waiting for every gateway to confirm.', status: 'LISTED' });
  const unheard = await untilProven(certificateId, proveWithinMs);
  const { summary, status } = await finishRevocation({ certificateId, unheard });
  display({ details: summary, status, waitingFor: null });
  return status;
}

/** Looks again and again, ever less often, until nothing is left. Gives the gateways that have not confirmed by the end. */
async function untilProven(certificateId: string, withinMs: number): Promise<string[]> {
  const deadline = Date.now() + withinMs;
  for (let pauseMs = 100; ; pauseMs = Math.min(pauseMs * 2, 30_000)) {
    const { proven, unheard, waitingFor } = await probeRevocation({ certificateId });
    const leftMs = deadline - Date.now();
    if (proven || leftMs <= 0) return unheard;
    display({ details: `Certificate ${certificateId}: waiting for ${waitingFor}.`, waitingFor });
    await sleep(Math.min(pauseMs, leftMs), { summary: waitingFor });
  }
}
