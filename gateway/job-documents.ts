import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import { listDocuments } from '../db/jobs.ts';

/** The address under which this device may fetch this content while it has this job to do. */
export type SignAddress = (what: { sha256: string; deviceId: string; jobId: string }) => string;

/** The document of a job as this device is given it; undefined when there is no such job. */
export type DocumentFor = (jobId: string, deviceId: string) => string | undefined;

export type JobDocuments = {
  /** Reads what is not known yet. A failure to reach the database is thrown as it is. */
  load(jobIds: string[]): Promise<DocumentFor>;
};

/** A document's text, cut at its addresses: what stands at an odd index is the SHA-256 of a content. */
type Pieces = string[];

const placeholder = /\$\{longhaul:url:([0-9a-f]{64})\}/;

/**
 * The documents of jobs, byte by byte as they were given, with a short-lived address for each `${longhaul:url:<SHA-256>}`.
 * A job's document never changes, so the last ones used stay in memory.
 */
export function createJobDocuments(deps: {
  db: Db;
  signAddress: SignAddress | undefined;
  log: Pick<Logger, 'error'>;
  keptMax?: number;
}): JobDocuments {
  const { db, signAddress, log, keptMax = 256 } = deps;
  const kept = new Map<string, Pieces>();

  async function find(jobIds: string[]): Promise<Map<string, Pieces>> {
    const found = new Map<string, Pieces>();
    for (const id of jobIds) {
      const pieces = kept.get(id);
      if (pieces) found.set(id, pieces);
    }
    const missing = [...new Set(jobIds)].filter((id) => !found.has(id));
    if (missing.length > 0) {
      for (const { id, document } of await listDocuments(db, missing)) found.set(id, read(id, document));
    }
    for (const [id, pieces] of found) keep(id, pieces);
    return found;
  }

  function read(id: string, document: string): Pieces {
    const pieces = document.split(placeholder);
    if (pieces.length > 1 && !signAddress) {
      log.error(
        { jobId: id },
        'a job asks for addresses of files, and none are configured: its devices get empty ones',
      );
    }
    return pieces;
  }

  /** The last used stand last. */
  function keep(id: string, pieces: Pieces): void {
    kept.delete(id);
    kept.set(id, pieces);
    const [oldest] = kept.keys();
    if (kept.size > keptMax && oldest !== undefined) kept.delete(oldest);
  }

  return {
    async load(jobIds) {
      const found = await find(jobIds);
      return (jobId, deviceId) =>
        found
          .get(jobId)
          ?.map((piece, index) => (index % 2 === 0 ? piece : quoted(signAddress?.({ sha256: piece, deviceId, jobId }))))
          .join('');
    },
  };
}

/** As it stands within a JSON string. */
const quoted = (text = '') => JSON.stringify(text).slice(1, -1);
