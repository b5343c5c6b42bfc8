import { createWriteStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { renameDurably, writeDurably } from './device-disk.ts';
import type { Fetch } from './device-http.ts';
import type { Action, JobDocument } from './device-job-documents.ts';
import { nameOf, type Job, type Verdict } from './device-job-journal.ts';
import type { Power } from './device-power.ts';
import type { Behaviour } from './device.ts';

export type StepsDeps = {
  folder: string;
  fetch: Fetch;
  behaviour: Behaviour;
  power: Power;
  keep: (job: Job) => Promise<void>;
  /** The document with addresses that still serve; undefined when the server wants no more of the job. */
  renew: () => Promise<StepsDocument | undefined>;
};

type StepsDocument = Extract<JobDocument, { kind: 'steps' }>;
type Done = { printed: string } | { failed: string };

const detailLengthMax = 1_024;

/**
 * Carries out a document in the schema of AWS's managed templates, one step after the other, going on after a power cut
 * with the one that was cut. It has handlers for `reboot` and `download-file`; of a command it takes note, and runs
 * nothing. The final step is the last one, and like the others is reached only over steps that went well or may fail.
 */
export async function runSteps(job: Job, document: StepsDocument, deps: StepsDeps): Promise<Verdict | undefined> {
  const { behaviour, power, keep } = deps;
  let progress = job.progress ?? { done: 0, output: [] };
  let current = document;
  if (job.progress) {
    const renewed = await deps.renew();
    if (!renewed) return undefined;
    current = renewed;
  }
  for (let action = next(); action; action = next()) {
    if (behaviour.slowMs > 0) await pause(behaviour.slowMs, undefined, { signal: power.signal });
    const { done, output } = progress;
    const did = await perform(action, `${nameOf(job)}-${done + 1}`);
    const line = 'printed' in did ? did.printed : did.failed;
    if ('failed' in did && !action.ignoreStepFailure) return verdictOf('FAILED', [...output, line], did.failed);
    progress = { done: done + 1, output: [...output, line] };
    await keep({ ...job, progress });
    power.reach('step-done');
  }
  return verdictOf('SUCCEEDED', progress.output);

  function next(): Action | undefined {
    return current.actions[progress.done];
  }

  async function perform({ argv: [program = '', ...args], isCommand }: Action, name: string): Promise<Done> {
    if (isCommand) return note([program, ...args], name);
    switch (program.replace(/\.(sh|ps1)$/, '')) {
      case 'reboot':
        return reboot();
      case 'download-file':
        return fetchFile(args);
      case 'run-command':
        return note(args, name);
      default:
        return { failed: `NO_HANDLER: there is no ${program} on this device` };
    }
  }

  /** One file for each, so that what a power cut makes it do twice is noted once. */
  async function note(argv: string[], name: string): Promise<Done> {
    const folder = join(deps.folder, 'commands');
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeDurably(join(folder, `${name}.json`), `${JSON.stringify(argv)}\n`);
    return { printed: `noted: ${argv.join(' ')}` };
  }

  async function reboot(): Promise<Done> {
    if (progress.rebooting) return { printed: 'rebooted' };
    await keep({ ...job, progress: { ...progress, rebooting: true } });
    return power.reboot();
  }

  /** As AWS's handler takes them: from where, and to where; of the path only the name counts. */
  async function fetchFile([address = '', path = '']: string[]): Promise<Done> {
    const folder = join(deps.folder, 'files');
    const name = basename(path);
    if (!/^https?:/.test(address) || !/[^.]/.test(name)) return { failed: 'BAD_ARGUMENTS: an address and a path' };
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const file = join(folder, name);
    try {
      const answer = await deps.fetch(address);
      if (answer.statusCode !== 200) {
        answer.destroy();
        return { failed: `NOT_DOWNLOADED: the server answered ${answer.statusCode}` };
      }
      await pipeline(answer, createWriteStream(`${file}.part`, { mode: 0o600, flush: true }));
      await renameDurably(`${file}.part`, file);
      return { printed: `downloaded ${name}` };
    } catch (error) {
      if (power.signal.aborted) throw error;
      return { failed: `NOT_DOWNLOADED: ${error instanceof Error ? error.message : String(error)}` };
    }
  }

  function verdictOf(status: 'SUCCEEDED' | 'FAILED', output: string[], reason?: string): Verdict {
    const stdout = output.join('; ').slice(-detailLengthMax);
    return {
      status,
      statusDetails: { ...(reason !== undefined && { reason }), ...(document.includeStdOut && stdout && { stdout }) },
    };
  }
}
