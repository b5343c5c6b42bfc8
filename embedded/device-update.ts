import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { download, DownloadFailed } from './device-download.ts';
import { nameOf, type Job, type Verdict } from './device-job-journal.ts';
import type { Fetch } from './device-http.ts';
import type { JobDocument } from './device-job-documents.ts';
import type { PublicKeys } from './device-jws.ts';
import { openManifest, type Manifest } from './device-manifest.ts';
import type { Power } from './device-power.ts';
import type { Slots } from './device-slots.ts';
import type { Behaviour } from './device.ts';

export type Phase = 'DOWNLOADING' | 'DOWNLOADED' | 'INSTALLING' | 'REBOOTING' | 'VERIFYING' | 'ROLLING_BACK';

export type UpdateDeps = {
  folder: string;
  slots: Slots;
  keys: PublicKeys;
  fetch: Fetch;
  behaviour: Behaviour;
  power: Power;
  backOffMs: number;
  /** Says where the job stands; false when the server wants no more of it. */
  report: (phase: Phase, details?: Record<string, string>) => Promise<boolean>;
  /** Says which version has booted, once per power-on. */
  tellVersion: () => Promise<void>;
  /** The document was given in an earlier life, so its order may be over: it is asked for anew. */
  resumed: boolean;
  /** The document with a new order and a new address, judged; undefined when the server wants no more of the job. */
  renew: () => Promise<UpdateDocument | undefined>;
};

export type UpdateDocument = Extract<JobDocument, { kind: 'update' }>;

/**
 * Takes an update as far as it can from where the disk says that it stands: download, install, reboot; once the new image
 * runs, check and keep it, or go back. Gives undefined when the server wants no more of it.
 */
export async function update(
  job: Job,
  given: UpdateDocument,
  { folder, slots, keys, fetch, behaviour, power, backOffMs, report, tellVersion, resumed, renew }: UpdateDeps,
): Promise<Verdict | undefined> {
  const name = nameOf(job);
  const downloads = join(folder, 'download');
  const { running } = slots;
  const slow = async () => {
    if (behaviour.slowMs > 0) await pause(behaviour.slowMs, undefined, { signal: power.signal });
  };

  const outcome = slots.outcomeOf(name);
  if (outcome) return outcome.failed === undefined ? succeeded(running.version) : fellBack(outcome.failed);
  if (running.trial === name) return verify();
  const document = resumed ? await renew() : given;
  if (!document) return undefined;
  const manifest = openManifest(document.manifest, keys);
  if (running.sha256 === manifest.artifact.sha256) return succeeded(running.version);
  if (behaviour.updates === 'lying') return lie(manifest);
  if (!(await slots.otherHolds(document.manifest))) {
    const installed = await install(manifest, document);
    if (installed !== true) return installed;
  }
  await rm(downloads, { recursive: true, force: true });
  if (!(await report('REBOOTING'))) return undefined;
  await slots.arm(name);
  return power.reboot();

  async function install(
    wanted: Manifest,
    { manifest: jws, artifact }: UpdateDocument,
  ): Promise<true | Verdict | undefined> {
    if (!(await report('DOWNLOADING'))) return undefined;
    await slow();
    const from = {
      folder: downloads,
      sha256: wanted.artifact.sha256,
      size: wanted.artifact.size,
      address: artifact.url,
    };
    const renewAddress = async () => (await renew())?.artifact.url;
    const file = await download({ ...from, renew: renewAddress, fetch, power, backOffMs }).catch((error: unknown) => {
      if (error instanceof DownloadFailed) return failed('DOWNLOADING', error.message);
      throw error;
    });
    if (typeof file !== 'string') return file;
    if (!(await report('DOWNLOADED')) || !(await report('INSTALLING'))) return undefined;
    await slow();
    await slots.install(file, jws, wanted);
    return true;
  }

  /** The new image runs, so the server no longer has a say: it is kept when it is well, whatever became of the job. */
  async function verify(): Promise<Verdict> {
    power.reach('up');
    await report('VERIFYING');
    await slow();
    if (behaviour.updates === 'bad' || (await slots.readHead()).startsWith('unhealthy')) {
      await slots.giveUp('UNHEALTHY: the image failed its health check');
      power.reach('given-up');
      return power.reboot();
    }
    await slots.confirm();
    power.reach('confirmed');
    return succeeded(running.version);
  }

  async function succeeded(version: string): Promise<Verdict> {
    await tellVersion();
    power.reach('version-told');
    return { status: 'SUCCEEDED', statusDetails: { phase: 'VERIFYING', version } };
  }

  /** The boot loader has gone back. */
  async function fellBack(reason: string): Promise<Verdict> {
    power.reach('fallen-back');
    await report('ROLLING_BACK', { reason });
    await slots.clearOther();
    power.reach('cleared');
    await tellVersion();
    power.reach('version-told');
    return failed('ROLLING_BACK', reason);
  }

  function failed(phase: Phase, reason: string): Verdict {
    return { status: 'FAILED', statusDetails: { phase, reason, version: running.version } };
  }

  async function lie({ version }: Manifest): Promise<Verdict | undefined> {
    for (const phase of ['DOWNLOADING', 'DOWNLOADED', 'INSTALLING', 'REBOOTING', 'VERIFYING'] as const) {
      if (!(await report(phase))) return undefined;
      await slow();
    }
    return succeeded(version);
  }
}
