import { allHandlersFinished, condition, defineSignal, defineUpdate, setHandler, sleep } from '@temporalio/workflow';
import { proxyLocalActivities } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { display } from './display.ts';
import { inbox, type Inbox } from './inbox.ts';
import { untilItIsDone, whileTheDeviceWaits } from './policies.ts';
import { deviceConnected, type DeviceConnected } from './provision-device.ts';

export type RotateCertificate = {
  deviceId: string;
  device: string;
  /** The rotation that was begun; without it the device has asked by itself, on the certificate that it asks with. */
  rotationId?: string;
  certificateId?: string;
  /** Instead of what its policy and the certificate say. */
  limits?: Partial<RotationLimits>;
};

export type RotationLimits = {
  /** Until the order is given up: as long as the old certificate lives. */
  answerWithinMs: number;
  /** From the new certificate's issue to its first connection. */
  proveWithinMs: number;
  /** From that connection to the end of the old certificate. */
  graceMs: number;
};

export type RenewCertificate = {
  /** The one that the device's connection proved. */
  certificateId: string;
  /** SubjectPublicKeyInfo, DER, base64: of a request whose signature and policy a door has checked. */
  publicKey: string;
  /** Names in the request; they may only name the device. */
  names: string[];
};
export type CertificateRenewed = { newCertificateId: string };
/** `issued`, `proven`: what the rows say already, of a lifecycle that is started again. `over`: it has ended. */
export type RotationBegun = {
  rotationId: string;
  issued: boolean;
  proven: boolean;
  over?: RotationOutcome | undefined;
} & RotationLimits;
export type RotationOutcome = keyof typeof outcomes;

export const renewCertificate = defineUpdate<CertificateRenewed, [RenewCertificate]>('renewCertificate');
/** A poke: nothing comes of it any more. The device has ended its order without asking, or leaves the fleet. */
export const rotationOver = defineSignal<[Record<string, never>]>('rotationOver');

export const rotateCertificateId = (device: string) => `rotate-certificate/${device}`;

const answer = proxyLocalActivities<Activities>(whileTheDeviceWaits);
const settle = proxyLocalActivities<Activities>(untilItIsDone);

/**
 * A device gets a new certificate for a key that it has made. It is ordered to ask for one, or asks by itself; it is issued
 * one beside the old; connecting with it is the proof that it holds it; a while later the old one is revoked. Whatever fails
 * on the way, the old one stays as it was, and only what was never used is taken back.
 */
export async function rotateCertificate(request: RotateCertificate): Promise<RotationOutcome> {
  const news = inbox<News>(deviceConnected, rotationOver);
  const begun = begin(request);
  setHandler(renewCertificate, async (asked) => {
    const renewed = await answer.renewCertificate({ ...asked, ...(await begun), deviceId: request.deviceId });
    news.put(renewed);
    return renewed;
  });
  await Promise.allSettled([begun]);
  await condition(allHandlersFinished); // a refusal is answered before it ends the workflow

  const { rotationId, issued, proven, over, ...limits } = await begun;
  if (over) return end(over);
  await settle.orderRotation({ rotationId });
  const toAsk = show(request, 'ORDERED', 'the device to ask for its new certificate');
  const renewed = issued || (await hear(news, isRenewed, limits.answerWithinMs, toAsk));
  const givenUp = renewed ? undefined : await settle.giveUpRotation({ rotationId });
  if (givenUp) return end(givenUp);

  const toConnect = show(request, 'ISSUED', 'its first connection with the new certificate');
  const proof = proven || (await hear(news, isProof, limits.proveWithinMs, toConnect));
  const takenBack = proof ? undefined : await settle.takeBackCertificate({ rotationId });
  if (takenBack) return end(takenBack);

  await settle.acceptProof({ rotationId });
  const toRetire = show(request, 'PROVEN', 'the end of the grace for the old certificate');
  await sleep(limits.graceMs, { summary: toRetire });
  return end(await settle.retireReplaced({ rotationId }));
}

type News = CertificateRenewed | DeviceConnected | Record<string, never>;

const isRenewed = (news: News): news is CertificateRenewed => 'newCertificateId' in news;
const isProof = (news: News): news is DeviceConnected => 'certificateId' in news;

async function begin({ limits, ...request }: RotateCertificate): Promise<RotationBegun> {
  // A device waits for the one, nobody for the other.
  const begun = await (request.rotationId ? settle : answer).beginRotation(request);
  return { ...begun, ...limits };
}

/** The next news of this kind; undefined when the time is over, or nothing comes of it any more. */
async function hear<Kind extends News>(
  news: Inbox<News>,
  isIt: (heard: News) => heard is Kind,
  withinMs: number,
  summary: string,
): Promise<Kind | undefined> {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const heard = await news.next(deadline - Date.now(), summary);
    if (!heard || isIt(heard)) return heard;
    if (Object.keys(heard).length === 0) return undefined;
  }
}

/** Gives what it waits for, as the name of the wait. */
function show({ device }: RotateCertificate, status: string, waitingFor: string): string {
  display({ details: `Waiting for ${waitingFor}.`, device, status, waitingFor });
  return waitingFor;
}

function end(status: RotationOutcome): RotationOutcome {
  display({ details: outcomes[status], status, waitingFor: null });
  return status;
}

const outcomes = {
  ROTATED: 'The device uses its new certificate. The old one is revoked.',
  REFUSED: 'The device has ended the order without asking for a certificate. It is ordered again later.',
  UNANSWERED: 'The device never asked for a certificate. It is ordered again later.',
  NEVER_USED: 'The new certificate was never used, and is revoked. The old one is as it was; it is tried again later.',
  ENDED: 'The certificate was revoked, or the device has left: there is nothing to replace any more.',
};
