import { join } from 'node:path';
import { removeDurably, writeDurably } from './device-disk.ts';
import type { JobDocument } from './device-job-documents.ts';
import { readFileIfThere } from './secret-files.ts';

export type Verdict = { status: 'SUCCEEDED' | 'FAILED' | 'REJECTED'; statusDetails: Record<string, string> };

/** The one job that the device has in hand. */
export type Job = {
  jobId: string;
  /** Which attempt of the job it is. */
  executionNumber: number;
  document: JobDocument;
  /** Of a document with steps: how many are done, what they printed, and whether the next has asked for a reboot. */
  progress?: { done: number; output: string[]; rebooting?: boolean };
  /** How it went; it is still to be told. */
  verdict?: Verdict;
};

export type JobJournal = {
  read(): Promise<Job | undefined>;
  /** Resolves when a power cut no longer makes it forget. */
  keep(job: Job): Promise<void>;
  forget(): Promise<void>;
};

/** The name of one attempt of a job. */
export const nameOf = ({ jobId, executionNumber }: Pick<Job, 'jobId' | 'executionNumber'>): string =>
  `${jobId}-${executionNumber}`;

export function openJobJournal(folder: string): JobJournal {
  const file = join(folder, 'job.json');
  return {
    async read() {
      const text = await readFileIfThere(file);
      // Only `keep` writes it, whole or not at all.
      return text === undefined ? undefined : JSON.parse(text);
    },
    keep: (job) => writeDurably(file, `${JSON.stringify(job, null, 2)}\n`),
    forget: () => removeDurably(file),
  };
}
