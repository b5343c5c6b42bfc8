import { hash } from 'node:crypto';
import { WithStartWorkflowOperation } from '@temporalio/client';
import { findIssuedChain } from '../db/enrolments.ts';
import { judgeCsr } from '../pki/csr-policy.ts';
import { renewCertificate, rotateCertificate, rotateCertificateId } from '../workflows/rotate-certificate.ts';
import type { RotateCertificate } from '../workflows/rotate-certificate.ts';
import { refusal } from '../workflows/refusals.ts';
import { createCoalescer } from './coalescer.ts';
import type { EntranceDeps } from './entrance.ts';
import { startsRotateCertificate } from './lifecycle.ts';
import { createRecovery } from './recovery.ts';

/** A device as its connection proved it: by the certificate that it is to replace. */
export type Renewing = {
  deviceId: string;
  name: string;
  certificateId: string;
  /** It is over, and the device asks to come back on it. */
  hasEnded?: boolean;
};

/** The chain of the new certificate, leaf first, PEM. Connecting with it is the proof; until then the old one stands. */
export type Renewed = { certificateId: string; certificatePem: string };

/**
 * The one way to another certificate, behind every door: a request for a new key, on the device's current certificate. It
 * joins the rotation that is under way, or begins one where the certificate is due or its policy lets it. Asked again with
 * the same key, also after a crash, it is the same certificate.
 *
 * A no is a `Refusal`. Of the request: `InvalidCsr`, `KeyNotPermitted`, `KeyInUse`. Of the certificate that it comes on:
 * `CertificateUnknown` (of no device, or of another), `CertificateRevoked`, `CertificateNotActive` (never used),
 * `CertificateSuperseded`, `CertificateExpired`. Of the device: `DeviceBlocked`, which blocks of its name or key are as well. Of
 * the moment: `RotationNotDue`, `RotationOver`, `TooManyCertificates`, `AuthorityEnding`. On a certificate that has ended also
 * those of `createRecovery`: `WaitingForApproval`, `RecoveryDenied`, `RateExceeded`.
 */
export function createRenewal({ db, temporal, forbiddenSpki = [] }: EntranceDeps) {
  const asking = createCoalescer();
  const permitRecovery = createRecovery({ db });
  const { workflow } = temporal.client;

  return async function renew(renewing: Renewing, csr: string | Uint8Array): Promise<Renewed> {
    const { deviceId, name, certificateId } = renewing;
    const judged = await judgeCsr(csr, { forbiddenSpki });
    if ('refused' in judged) throw refusal('InvalidCsr', `${judged.refused.reason}: ${judged.refused.detail}`, 400);
    const { publicKey, requested } = judged.accepted;
    const spkiSha256 = hash('sha256', publicKey, 'buffer');
    if (renewing.hasEnded) await permitRecovery(renewing, spkiSha256);
    const { newCertificateId } = await asking(`${certificateId} ${spkiSha256.toString('hex')}`, () => {
      const request: RotateCertificate = { deviceId, device: name, certificateId };
      const startWorkflowOperation = new WithStartWorkflowOperation(rotateCertificate, {
        ...startsRotateCertificate(request),
        workflowId: rotateCertificateId(name),
        taskQueue: temporal.taskQueue,
        args: [request],
        workflowIdConflictPolicy: 'USE_EXISTING',
      });
      const asked = { certificateId, publicKey: Buffer.from(publicKey).toString('base64'), names: requested.names };
      return workflow.executeUpdateWithStart(renewCertificate, { args: [asked], startWorkflowOperation });
    });
    const certificatePem = await findIssuedChain(db, newCertificateId);
    if (!certificatePem) throw new Error(`certificate ${newCertificateId} was issued and has no row`);
    return { certificateId: newCertificateId, certificatePem };
  };
}
