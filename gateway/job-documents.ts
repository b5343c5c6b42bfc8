import { createHash } from 'node:crypto';
import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import type { Execution } from '../db/executions.ts';
import { listDocuments, type JobRow } from '../db/jobs.ts';
import { manifestIn } from '../db/release-documents.ts';
import type { SignOrder } from '../pki/orders.ts';
import { hasEnded, splice } from './job-answers.ts';

/** The address under which this device may fetch this content while it has this job to do. */
export type SignAddress = (what: { sha256: string; deviceId: string; jobId: string }) => string;

/** The document of an execution as the device of this name is given it; undefined when there is no such job. */
export type DocumentFor = (
  execution: Pick<Execution, 'jobId' | 'deviceId' | 'attempt' | 'status'>,
  device: string,
) => string | undefined;

export type JobDocuments = {
  /** Reads what is not known yet. A failure to reach the database is thrown as it is. */
  load(jobIds: string[]): Promise<DocumentFor>;
};

type Document = {
  /** Its text, cut at its addresses: what stands at an odd index is the SHA-256 of a content. */
  pieces: string[];
  /** Of a release: the SHA-256 of its manifest's JWS, which each of its orders names. */
  manifest?: string;
};

const placeholder = /\$\{longhaul:url:([0-9a-f]{64})\}/;

/**
 * The documents of jobs, byte by byte as they were given, with a short-lived address for each `${longhaul:url:<SHA-256>}`,
 * and, in those of releases, an `order` to this very device in this very attempt, signed as it is given. A job's document
 * never changes, so the last ones used stay in memory; an order is kept nowhere.
 */
export function createJobDocuments(deps: {
  db: Db;
  signAddress: SignAddress | undefined;
  signOrder: SignOrder | undefined;
  log: Pick<Logger, 'error'>;
  keptMax?: number;
}): JobDocuments {
  const { db, signAddress, signOrder, log, keptMax = 256 } = deps;
  const kept = new Map<string, Document>();

  async function find(jobIds: string[]): Promise<Map<string, Document>> {
    const found = new Map<string, Document>();
    for (const id of jobIds) {
      const document = kept.get(id);
      if (document) found.set(id, document);
    }
    const missing = [...new Set(jobIds)].filter((id) => !found.has(id));
    if (missing.length > 0) for (const row of await listDocuments(db, missing)) found.set(row.id, read(row));
    for (const [id, document] of found) keep(id, document);
    return found;
  }

  function read({ id: jobId, document, releaseId }: Pick<JobRow, 'id' | 'document' | 'releaseId'>): Document {
    const pieces = document.split(placeholder);
    if (pieces.length > 1 && !signAddress) {
      log.error({ jobId }, 'a job asks for addresses of files, and none are configured: its devices get empty ones');
    }
    if (releaseId === null) return { pieces };
    if (!signOrder) log.error({ jobId }, 'a job is of a release, and nothing signs orders: its devices get none');
    return { pieces, manifest: createHash('sha256').update(manifestIn(document)).digest('hex') };
  }

  /** The last used stand last. */
  function keep(id: string, document: Document): void {
    kept.delete(id);
    kept.set(id, document);
    const [oldest] = kept.keys();
    if (kept.size > keptMax && oldest !== undefined) kept.delete(oldest);
  }

  return {
    async load(jobIds) {
      const found = await find(jobIds);
      return (execution, device) => {
        const { jobId, deviceId, attempt } = execution;
        const document = found.get(jobId);
        const text = document?.pieces
          .map((piece, index) => (index % 2 === 0 ? piece : quoted(signAddress?.({ sha256: piece, deviceId, jobId }))))
          .join('');
        if (text === undefined || document?.manifest === undefined || !signOrder || hasEnded(execution)) return text;
        const order = signOrder({ device, job: jobId, execution: attempt, manifest: document.manifest });
        return splice(text, 'order', JSON.stringify(order));
      };
    },
  };
}

/** As it stands within a JSON string. */
const quoted = (text = '') => JSON.stringify(text).slice(1, -1);
