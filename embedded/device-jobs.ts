import { EventEmitter, once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Connection } from './device-connection.ts';
import type { DeviceFolder } from './device-folder.ts';
import { openExchange, parseObject } from './device-exchange.ts';
import type { Fetch } from './device-http.ts';
import { readJobDocument } from './device-job-documents.ts';
import { nameOf, openJobJournal, type Job, type Verdict } from './device-job-journal.ts';
import { jobRequestsOf, readExecution, type Execution } from './device-job-requests.ts';
import { runSteps } from './device-job-steps.ts';
import type { PublicKeys } from './device-jws.ts';
import { openManifest, requireFit } from './device-manifest.ts';
import { requireOrder } from './device-order.ts';
import type { Power } from './device-power.ts';
import { JobRefused } from './device-refusal.ts';
import { rotate } from './device-rotation.ts';
import type { Slots } from './device-slots.ts';
import { jobFilters, notifyNextTopic } from './device-topics.ts';
import { takeTrustBundle } from './device-trust.ts';
import { update, type UpdateDocument } from './device-update.ts';
import type { Behaviour, DeviceEvents, Software } from './device.ts';

export type JobsDeps = {
  device: string;
  folder: string;
  identity: Pick<DeviceFolder, 'state' | 'successor' | 'trustBundle' | 'keepTrustBundle'>;
  software: Software;
  keys: PublicKeys;
  orderKeys: PublicKeys;
  slots: Slots;
  fetch: Fetch;
  behaviour: Behaviour;
  events: EventEmitter<DeviceEvents>;
  power: Power;
  backOffMs: number;
};

export type Jobs = {
  receive: (topic: string, payload: Buffer) => void;
  /** Subscribes, asks what is next, and resolves when the connection has ended. */
  serve: (client: Connection) => Promise<void>;
  /** Finishes what was begun before the power-on, then takes what comes. Resolves when the power is off. */
  work: () => Promise<void>;
};

const afterTroubleMs = 1_000;

/**
 * The device's AWS IoT Jobs agent. One job at a time, from the offer to the verdict; what a restart needs to go on stands
 * on the disk. It says which version has booted before anything else, and a verdict until the server has answered.
 */
export function jobsOf({
  device,
  folder,
  identity,
  software,
  keys,
  orderKeys,
  slots,
  fetch,
  behaviour,
  events,
  power,
  backOffMs,
}: JobsDeps): Jobs {
  const { signal } = power;
  const { running } = slots;
  const journal = openJobJournal(folder);
  const loses = () => Math.random() < behaviour.lossy;
  const exchange = openExchange({ signal, loses, patienceMs: 10 * backOffMs });
  const requests = jobRequestsOf({ device, exchange, events });
  const news = new EventEmitter<{ offered: [] }>();
  let offered: Execution | 'ask' | undefined;
  let versionTold = false;

  function offer(next: Execution | 'ask' | undefined): void {
    offered = next;
    news.emit('offered');
  }

  async function live(): Promise<void> {
    const open = await journal.read();
    if (running.trial !== undefined && running.trial !== (open && nameOf(open))) {
      await slots.giveUp('UNASKED: no job in hand has asked for this trial');
      return power.reboot();
    }
    if (running.trial === undefined) await tellVersion();
    if (open) await carryOut(open, { resumed: true });
    for (;;) {
      while (!offered) await once(news, 'offered', { signal });
      const next = offered;
      offered = undefined;
      await take(next);
    }
  }

  async function take(next: Execution | 'ask'): Promise<void> {
    if (behaviour.updates === 'silent') return;
    const execution = next === 'ask' ? await requests.next() : next;
    if (!execution) return;
    power.reach('offered');
    let job = jobOf(execution);
    if (execution.status === 'QUEUED' && !job.verdict) {
      const started = await requests.startNext();
      if (!started) return;
      power.reach('started');
      job = jobOf(started);
    }
    await journal.keep(job);
    power.reach('kept');
    await carryOut(job, { resumed: false });
  }

  async function carryOut(job: Job, { resumed }: { resumed: boolean }): Promise<void> {
    const verdict = job.verdict ?? (await execute(job, resumed));
    if (verdict) {
      await journal.keep({ ...job, verdict });
      power.reach('judged');
      await requests.report(job, verdict.status, verdict.statusDetails);
      power.reach('told');
    }
    await journal.forget();
    power.reach('forgotten');
    const updated = slots.outcomeOf(nameOf(job));
    if (behaviour.updates === 'flapping' && updated && updated.failed === undefined) await flap();
  }

  /** Well at first, the new image does not last. */
  async function flap(): Promise<never> {
    await pause(behaviour.flapsAfterMs, undefined, { signal });
    await slots.revert();
    return power.reboot();
  }

  async function execute(job: Job, resumed: boolean): Promise<Verdict | undefined> {
    const { document } = job;
    const own = { folder, slots, keys, fetch, behaviour, power, backOffMs, tellVersion };
    const renewed = async () => {
      const execution = await requests.describe(job);
      return execution && readJobDocument(execution.jobDocument);
    };
    try {
      if (document.kind === 'update') {
        return await update(job, document, {
          ...own,
          report: (phase, details) => requests.report(job, 'IN_PROGRESS', { phase, ...details }),
          resumed,
          async renew() {
            const fresh = await renewed();
            if (fresh?.kind !== 'update') return undefined;
            judge(fresh, job);
            return fresh;
          },
        });
      }
      if (document.kind === 'rotation') {
        return await rotate(document, { folder: identity, power, connected: exchange.connected });
      }
      if (document.kind === 'trust') return takeTrustBundle(document, { folder: identity, power });
      if (document.kind === 'steps') {
        return await runSteps(job, document, {
          ...own,
          keep: journal.keep,
          async renew() {
            const fresh = await renewed();
            return fresh?.kind === 'steps' ? fresh : undefined;
          },
        });
      }
      return rejected(`UNKNOWN_DOCUMENT: ${document.why}`);
    } catch (error) {
      if (error instanceof JobRefused) return rejected(error.message);
      throw error;
    }
  }

  /** The job with its verdict, if it is refused before it has begun. */
  function jobOf({ jobId, executionNumber, jobDocument }: Execution): Job {
    const document = readJobDocument(jobDocument);
    const job = { jobId, executionNumber, document };
    try {
      if (behaviour.updates === 'refusing') throw new JobRefused('TOLD_TO_REFUSE', 'the device was told to refuse');
      if (document.kind === 'unknown') throw new JobRefused('UNKNOWN_DOCUMENT', document.why);
      if (document.kind === 'update') judge(document, job);
      return job;
    } catch (error) {
      if (error instanceof JobRefused) return { ...job, verdict: rejected(error.message) };
      throw error;
    }
  }

  function judge({ manifest: jws, order, artifact }: UpdateDocument, { jobId, executionNumber }: Job): void {
    const nowMs = Date.now() + behaviour.clockAheadMs;
    requireOrder(order, orderKeys, { device, jobId, executionNumber, manifest: jws, nowMs });
    const manifest = openManifest(jws, keys);
    if (artifact.sha256 !== manifest.artifact.sha256 || artifact.size !== manifest.artifact.size)
      throw new JobRefused('WRONG_ARTIFACT', 'the document names another artifact than the manifest');
    if (running.sha256 === artifact.sha256) return;
    requireFit(manifest, { ...software, version: running.version, counter: slots.counter(), nowMs });
  }

  async function tellVersion(): Promise<void> {
    if (!versionTold) await requests.tellVersion(software.product, running.version);
    versionTold = true;
  }

  return {
    receive(topic, payload) {
      if (topic !== notifyNextTopic(device)) return exchange.hear(topic, payload);
      const next = readExecution(parseObject(payload));
      if (next || offered !== 'ask') offer(next);
    },

    async serve(client) {
      const ended = new Promise<void>((resolve) => client.once('close', () => resolve()));
      await client.subscribeAsync(jobFilters(device), { qos: 1 });
      exchange.attach(client);
      offer('ask');
      await ended;
    },

    async work() {
      while (!signal.aborted) {
        try {
          await live();
        } catch (error) {
          if (signal.aborted) return;
          events.emit('trouble', error instanceof Error ? error : new Error(String(error)));
          offer('ask');
          await pause(afterTroubleMs, undefined, { signal }).catch(() => {});
        }
      }
    },
  };
}

const rejected = (reason: string): Verdict => ({ status: 'REJECTED', statusDetails: { reason } });
