import {
  allHandlersFinished,
  condition,
  defineSignal,
  defineUpdate,
  proxyLocalActivities,
  setHandler,
} from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { inbox } from './inbox.ts';
import { activateWithinMs, untilItIsDone, whileTheDeviceWaits } from './policies.ts';

export type ProvisionDevice = {
  /** The claim that permits this enrolment. */
  claimId: string;
  /** SubjectPublicKeyInfo, DER, base64: of a request whose signature and policy the gateway has checked. */
  publicKey: string;
  /** Milliseconds from issue to the first connection; the certificate is taken back after that. */
  activateWithinMs?: number;
};

export type CertificateIssued = { enrolmentId: string; certificateId: string; template: string; closesAtMs: number };
export type RegisterDevice = { template: string; parameters: Record<string, string> };
export type DeviceRegistered = { deviceName: string };
export type DeviceConnected = { certificateId: string; deviceName: string };

export const requestCertificate = defineUpdate<CertificateIssued>('requestCertificate');
export const registerDevice = defineUpdate<DeviceRegistered, [RegisterDevice]>('registerDevice');
export const deviceConnected = defineSignal<[DeviceConnected]>('deviceConnected');

/** `key` is that of the enrolment: the same claim and public key always meet in the same workflow. */
export const provisionDeviceId = (key: string) => `provision-device/${key}`;

const answer = proxyLocalActivities<Activities>(whileTheDeviceWaits);
const settle = proxyLocalActivities<Activities>(untilItIsDone);

/**
 * A device enrols: it is issued a certificate, registered under a name, and has an hour to connect with what it got.
 * What was never used is revoked, and the claim gets its slot back.
 */
export async function provisionDevice(request: ProvisionDevice): Promise<string> {
  const connections = inbox(deviceConnected);
  const issued = answer.issueCertificate({
    ...request,
    activateWithinMs: request.activateWithinMs ?? activateWithinMs,
  });
  setHandler(requestCertificate, () => issued);
  setHandler(registerDevice, async (registration) => register((await issued).enrolmentId, registration));

  await Promise.allSettled([issued]);
  await condition(allHandlersFinished); // a refusal is answered before it ends the workflow
  const { enrolmentId, certificateId, closesAtMs } = await issued;
  display({ details: `Certificate ${certificateId} is issued. Waiting for the device to register.` });
  const connection = await connections.next(closesAtMs - Date.now(), 'first connection with the new certificate');
  await condition(allHandlersFinished);
  const status = connection ? 'ACTIVATED' : await settle.lapseEnrolment({ enrolmentId });
  display({ details: outcomes[status], status, waitingFor: null });
  return status;
}

const outcomes = {
  ACTIVATED: 'The device has connected with its certificate, which is active.',
  LAPSED: 'The certificate was never used. It is revoked, and the claim has its slot back.',
};

async function register(enrolmentId: string, registration: RegisterDevice): Promise<DeviceRegistered> {
  const registered = await answer.registerDevice({ enrolmentId, ...registration });
  const { deviceName: device } = registered;
  const details = `${device} is registered. Waiting for it to connect with its certificate.`;
  display({ details, device, status: 'REGISTERED', waitingFor: 'first connection' });
  return registered;
}
