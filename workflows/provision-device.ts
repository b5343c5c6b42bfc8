import {
  allHandlersFinished,
  condition,
  defineSignal,
  defineUpdate,
  proxyLocalActivities,
  setHandler,
} from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import type { Evidence } from '../db/enrolment-schema.ts';
import { display } from './display.ts';
import { inbox } from './inbox.ts';
import { activateWithinMs, untilItIsDone, whileAHookDecides, whileTheDeviceWaits } from './policies.ts';
import { refusal } from './refusals.ts';

export type ProvisionDevice = {
  /** The claim that permits this enrolment. */
  claimId: string;
  /** SubjectPublicKeyInfo, DER, base64: of a request whose signature and policy a door has checked. */
  publicKey: string;
  /** What certificates say of the device. */
  evidence?: Evidence;
  /** Of a door that asks for certificate and registration in one step: the certificate then carries the device's name. */
  registration?: RegisterDevice;
  /** A manufacturer's certificate (PEM) with this key, which becomes the device's: then none is issued. */
  adopts?: string;
  /** Milliseconds from issue to the first connection; the certificate is taken back after that. */
  activateWithinMs?: number;
};

export type RegisterDevice = { template: string; parameters: Record<string, string> };
export type CertificateIssued = { enrolmentId: string; certificateId: string; template: string; closesAtMs: number };
/** `supersedes`: the device has other certificates, which end when it has connected with this one. */
export type DeviceRegistered = { deviceName: string; closesAtMs: number; supersedes: boolean };
/** An operator has yet to approve of it. */
export type WaitsForOperator = { deviceName: string; closesAtMs: number; waitsFor: string };
/** Nothing is done yet: the template's hook has to be asked first, and its answer will stand under this key. */
export type HookToAsk = { hookKey: string };
export type EnrolmentBegun = CertificateIssued | ({ enrolmentId: string } & (DeviceRegistered | WaitsForOperator));
export type DeviceConnected = { certificateId: string; deviceName: string };

export const requestCertificate = defineUpdate<EnrolmentBegun>('requestCertificate');
export const registerDevice = defineUpdate<DeviceRegistered | WaitsForOperator, [RegisterDevice]>('registerDevice');
export const deviceConnected = defineSignal<[DeviceConnected]>('deviceConnected');
/** A poke: an operator has approved or denied. What exactly stands in the rows. */
export const enrolmentDecided = defineSignal<[Record<string, never>]>('enrolmentDecided');

/** `key` is that of the enrolment: the same claim and public key always meet in the same workflow. */
export const provisionDeviceId = (key: string) => `provision-device/${key}`;

const answer = proxyLocalActivities<Activities>(whileTheDeviceWaits);
const { askHook } = proxyLocalActivities<Activities>(whileAHookDecides);
const settle = proxyLocalActivities<Activities>(untilItIsDone);

/**
 * A device enrols: it is issued a certificate and registered under a name, in two steps or in one, perhaps once a hook and
 * an operator agree, and has an hour to connect with what it got. What was never used is revoked, and the claim gets its
 * slot back.
 */
export async function provisionDevice(request: ProvisionDevice): Promise<string> {
  const news = inbox<DeviceConnected | Record<string, never>>(deviceConnected, enrolmentDecided);
  const begun = begin(request);
  let standing: Standing | undefined;
  const note = <Said extends Standing>(said: Said): Said => {
    standing = said;
    return show(said);
  };
  setHandler(requestCertificate, () => begun);
  setHandler(registerDevice, async (asked) => note(await register(request, (await begun).enrolmentId, asked)));

  await Promise.allSettled([begun]);
  await condition(allHandlersFinished); // a refusal is answered before it ends the workflow
  const { enrolmentId } = await begun;
  standing ??= note(await begun);
  for (;;) {
    const heard = await news.next(standing.closesAtMs - Date.now(), 'first connection with the new certificate');
    await condition(allHandlersFinished);
    if (heard && 'certificateId' in heard) {
      if ('supersedes' in standing && standing.supersedes) await settle.retireSuperseded({ enrolmentId });
      return end('ACTIVATED');
    }
    const left = heard ? await settle.settleEnrolment({ enrolmentId }) : await settle.lapseEnrolment({ enrolmentId });
    if (typeof left === 'string') return end(left);
    standing = note(left);
  }
}

type Standing = CertificateIssued | DeviceRegistered | WaitsForOperator;

async function begin(request: ProvisionDevice): Promise<EnrolmentBegun> {
  const { registration, ...asked } = { activateWithinMs, ...request };
  if (!registration) return answer.issueCertificate(asked);
  return onceTheHookAgrees(request, registration, () => answer.enrolDevice({ ...asked, registration }));
}

const register = (request: ProvisionDevice, enrolmentId: string, registration: RegisterDevice) =>
  onceTheHookAgrees(request, registration, () => answer.registerDevice({ enrolmentId, ...registration }));

/** Most templates have no hook: then this is one step. */
async function onceTheHookAgrees<Done extends object>(
  { claimId, publicKey, evidence = {} }: ProvisionDevice,
  registration: RegisterDevice,
  attempt: () => Promise<Done | HookToAsk>,
): Promise<Done> {
  const first = await attempt();
  if (!('hookKey' in first)) return first;
  await askHook({ ...first, claimId, publicKey, evidence, registration });
  const second = await attempt();
  if ('hookKey' in second) throw refusal('HookFailed', 'the template was changed while its hook was asked', 503);
  return second;
}

function show<Said extends Standing>(said: Said): Said {
  if ('waitsFor' in said) {
    const { deviceName: device, waitsFor } = said;
    const why = waitsFor === 'approval' ? 'its template asks for it' : 'a device of this name is enrolled already';
    const details = `An operator has to approve of ${device}: ${why}.`;
    display({ details, device, status: 'WAITING_FOR_APPROVAL', waitingFor: 'approval' });
  } else if ('deviceName' in said) {
    const { deviceName: device } = said;
    const details = `${device} is registered. Waiting for it to connect with its certificate.`;
    display({ details, device, status: 'REGISTERED', waitingFor: 'first connection' });
  } else {
    display({ details: `Certificate ${said.certificateId} is issued. Waiting for the device to register.` });
  }
  return said;
}

function end(status: keyof typeof outcomes): string {
  display({ details: outcomes[status], status, waitingFor: null });
  return status;
}

const outcomes = {
  ACTIVATED: 'The device has connected with its certificate, which is active.',
  LAPSED: 'The certificate was never used, or nobody approved. It is revoked, and the claim has its slot back.',
  DENIED: 'An operator has denied it, or what was approved broke a rule by then. The claim has its slot back.',
};
