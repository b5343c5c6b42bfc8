import { z } from 'zod';
import { productsMax, type Software, type SoftwareReport, type SoftwareVerdict } from '../db/software-changes.ts';
import { readSoftware, recordSoftware } from '../db/software.ts';
import type { RefusalDetail } from '../workflows/refusals.ts';
import { rolloutProgressed, runRolloutId } from '../workflows/run-rollout.ts';
import { createBatches } from './batches.ts';
import { createIds } from '../db/ids.ts';
import { isRecord, scrubText } from './payloads.ts';
import { unrecorded, type RecordingDeps } from './recording.ts';
import type { Reply, Request } from './requests.ts';

const clientTokenBytesMax = 64;
/** One level of an RSQL selector, `version.<product>`. */
const productName = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;
/** Printable ASCII: what an operator can type into a filter, and a manifest can say. */
const versionText = /^[\x20-\x7e]{1,64}$/;

const clientToken = z
  .string('Invalid clientToken')
  .refine((token) => Buffer.byteLength(token) <= clientTokenBytesMax, 'Invalid clientToken')
  .optional();

/** What stands in the reserved shadow `$package`: under `reported`, product → `{ version }`. Nobody desires anything in it. */
export const softwareUpdate = z.object({
  state: z.object(
    {
      desired: z.null('Desired node is not taken by this shadow').optional(),
      reported: z.unknown().transform(readReported).optional(),
    },
    { error: ({ input }) => (input === undefined ? 'Missing required node: state' : 'State node must be an object') },
  ),
  version: z
    .union(
      [
        z.int().min(0, 'Invalid version'),
        z
          .string()
          .regex(/^\d{1,15}$/)
          .transform(Number),
      ],
      { error: 'Invalid version' },
    )
    .optional(),
  clientToken,
});
export const softwareGet = z.object({ clientToken });

export type SoftwareShadow = ReturnType<typeof createSoftware>;

/** What devices say that they run. Reports are gathered and answered after their commit; so are questions, beside them. */
export function createSoftware({ db, availability, relay, log, quarantined, limits }: RecordingDeps) {
  const poke = { workflowIdPrefix: runRolloutId(''), signal: rolloutProgressed.name };
  const nextId = createIds();
  const reports = createBatches<SoftwareReport, SoftwareVerdict>({
    ...limits,
    name: 'software reports',
    write: (items) => recordSoftware(db, items, poke),
    availability,
    log,
  });
  const questions = createBatches<string, Software | undefined>({
    ...limits,
    name: 'software questions',
    write: async (deviceIds) => {
      const found = await readSoftware(db, deviceIds);
      return deviceIds.map((deviceId) => found.get(deviceId));
    },
    availability,
    log,
  });

  return {
    update: async ({ session, body, message }: Request<z.infer<typeof softwareUpdate>>): Promise<Reply> => {
      if (session.identity.kind !== 'device') return { refused: refusals.missing };
      const { deviceId } = session.identity;
      const { state, version: expected, clientToken: token } = body;
      const { reported } = state;
      const changes = reported ?? new Map<string, string | null>();
      const written = await reports.add({ deviceId, changes, whole: reported === null, expected, eventId: nextId() });
      if (written.outcome !== 'committed') return unrecorded({ db, quarantined }, { deviceId, message }, written);
      const { result: verdict } = written;
      if (verdict === 'conflict' || verdict === 'too-many') return { refused: refusals[verdict] };
      relay.wake();
      const { revision, products } = verdict.recorded;
      return { accepted: { ...showReport(reported, products), version: revision, ...stamp(token) } };
    },

    get: async ({ session, body }: Request<z.infer<typeof softwareGet>>): Promise<Reply> => {
      if (session.identity.kind !== 'device') return { refused: refusals.missing };
      const read = await questions.add(session.identity.deviceId);
      if (read.outcome === 'given-up') return { givenUp: read.detail };
      if (read.outcome === 'poisoned') throw read.error;
      if (!read.result) return { refused: refusals.missing };
      const { revision, products } = read.result;
      const shown = products.size > 0 ? showReport(new Map(products), products) : { state: {}, metadata: {} };
      return { accepted: { ...shown, version: revision, ...stamp(body.clientToken) } };
    },

    drain: async () => void (await Promise.all([reports.drain(), questions.drain()])),
  };
}

const refusals: Record<'missing' | 'conflict' | 'too-many', RefusalDetail> = {
  missing: { code: 'ResourceNotFound', detail: "No shadow exists with name: '$package'", status: 404 },
  conflict: { code: 'VersionMismatch', detail: 'Version conflict', status: 409 },
  'too-many': { code: 'TooLarge', detail: `a device reports at most ${productsMax} products`, status: 413 },
};

/** How a rejection looks in the words of shadows: the number is what clients go by. */
export const shadowRejection = ({ detail, status }: RefusalDetail, { body }: { body: unknown }) => {
  const token = softwareGet.safeParse(body).data?.clientToken;
  return { code: status, message: detail, ...stamp(token) };
};

/** Time in epoch seconds, and the token by which a client knows its answer. */
const stamp = (token: string | undefined) => ({
  timestamp: Math.floor(Date.now() / 1_000),
  ...(token !== undefined && { clientToken: token }),
});

/** What is reported: null when all is gone, product → version, or null for what is gone. */
function readReported(value: unknown, context: z.RefinementCtx): Map<string, string | null> | null {
  if (value === null) return null;
  const changes = new Map<string, string | null>();
  if (!isRecord(value)) {
    context.addIssue('Reported node must be an object');
    return null;
  }
  for (const [product, entry] of Object.entries(value)) {
    const version = entry === null ? null : readVersion(entry);
    if (version === 'invalid' || !productName.test(product)) {
      context.addIssue(`State contains an invalid node: '${scrubText(product, 128) ?? ''}'`);
      return null;
    }
    // What else a device says of a product is nothing that we know.
    if (version !== undefined) changes.set(product, version?.text ?? null);
  }
  return changes;
}

/** Null is a version that is gone, undefined is none said. Real agents send numbers. */
function readVersion(entry: unknown): { text: string } | null | undefined | 'invalid' {
  if (!isRecord(entry)) return 'invalid';
  const { version } = entry;
  if (version === undefined || version === null) return version;
  const text = scrubText(version, 65);
  return text !== undefined && versionText.test(text) ? { text } : 'invalid';
}

/** The fields that were sent, each leaf with the time at which it became so. */
function showReport(reported: Map<string, unknown> | null | undefined, products: Software['products']) {
  if (reported === undefined) return { state: {}, metadata: {} };
  if (reported === null) return { state: { reported: null }, metadata: {} };
  const shown = [...reported.keys()].map((product) => [product, products.get(product)] as const);
  const state = shown.map(([product, entry]) => [product, entry ? { version: entry.version } : null]);
  const metadata = shown.flatMap(([product, entry]) =>
    entry ? [[product, { version: { timestamp: Math.floor(entry.reportedAt.getTime() / 1_000) } }]] : [],
  );
  return { state: { reported: Object.fromEntries(state) }, metadata: { reported: Object.fromEntries(metadata) } };
}
