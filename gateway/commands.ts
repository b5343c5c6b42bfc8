import { z } from 'zod';
import { recordCommandReports, type CommandReport, type CommandVerdict } from '../db/command-targets.ts';
import type { RefusalDetail } from '../workflows/refusals.ts';
import { commandProgressed, sendCommandId } from '../workflows/send-command.ts';
import { createBatches } from './batches.ts';
import { createIds } from '../db/ids.ts';
import { isRecord, isUuid, scrubText } from './payloads.ts';
import { unrecorded, type RecordingDeps } from './recording.ts';
import type { Reply, Request } from './requests.ts';

const reasonCodeLengthMax = 64;
const descriptionLengthMax = 1_024;
const resultsMax = 128;
const valueLengthMax = 65_536;

/** Lenient where real agents are careless: what carries no decision is coerced or cut, never a reason to refuse. */
export const commandResponse = z
  .object({
    status: z.enum(['IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED', 'TIMED_OUT'], {
      error: 'must be IN_PROGRESS, SUCCEEDED, FAILED, REJECTED or TIMED_OUT',
    }),
    statusReason: z.unknown().optional(),
    result: z.unknown().optional(),
  })
  .transform(({ status, statusReason, result }) => ({
    status,
    ...readReason(statusReason),
    result: readResult(result),
  }));

export type Commands = ReturnType<typeof createCommands>;

/** What devices report about commands: gathered, recorded in one transaction, answered after its commit. */
export function createCommands({ db, availability, relay, log, quarantined, limits }: RecordingDeps) {
  const poke = { workflowIdPrefix: sendCommandId(''), signal: commandProgressed.name };
  const nextId = createIds();
  const reports = createBatches<CommandReport, CommandVerdict>({
    ...limits,
    name: 'command reports',
    write: (items) => recordCommandReports(db, items, poke),
    availability,
    log,
  });

  return {
    respond: async ({ session, params, body, message }: Request<z.infer<typeof commandResponse>>): Promise<Reply> => {
      const executionId = params['execution'] ?? '';
      if (session.identity.kind !== 'device' || !isUuid(executionId)) return { refused: refusals.unknown };
      const { deviceId } = session.identity;
      const ids = { executionId, deviceId, transitionId: nextId(), eventId: nextId() };
      const written = await reports.add({ ...ids, ...body });
      if (written.outcome !== 'committed') return unrecorded({ db, quarantined }, { deviceId, message }, written);
      relay.wake();
      const { result: verdict } = written;
      if (verdict === 'recorded' || verdict === 'repeated') return { accepted: { executionId } };
      return { refused: refusals[verdict] };
    },
    drain: () => reports.drain(),
  };
}

const refusals: Record<'unknown' | 'ended' | 'canceled', RefusalDetail> = {
  unknown: { code: 'ResourceNotFound', detail: 'this device has no such execution', status: 404 },
  ended: { code: 'TerminalStateReached', detail: 'the execution has ended with another status', status: 409 },
  canceled: { code: 'InvalidStateTransition', detail: 'the command was canceled', status: 409 },
};

function readReason(value: unknown): { reasonCode: string | null; reasonDescription: string | null } {
  const { reasonCode, reasonDescription } = isRecord(value) ? value : { reasonCode: null, reasonDescription: value };
  const code = scrubText(reasonCode, reasonCodeLengthMax)
    ?.toUpperCase()
    .replaceAll(/[^A-Z0-9_-]/g, '_');
  return { reasonCode: code || null, reasonDescription: scrubText(reasonDescription, descriptionLengthMax) || null };
}

type CommandResult = Record<string, { s: string } | { b: boolean } | { bin: string }>;

/** AWS's result map, a value being a string, a truth value or base64. A bare scalar is taken for its text. */
function readResult(value: unknown): CommandResult | null {
  if (!isRecord(value)) return null;
  const entries = Object.entries(value)
    .slice(0, resultsMax)
    .map(([key, entry]) => [scrubText(key, 128) ?? '', readValue(entry)] as const);
  return Object.fromEntries(entries.flatMap(([key, entry]) => (entry ? [[key, entry]] : [])));
}

function readValue(value: unknown): { s: string } | { b: boolean } | { bin: string } | undefined {
  if (typeof value === 'boolean') return { b: value };
  if (!isRecord(value)) {
    const text = scrubText(value, valueLengthMax);
    return text === undefined ? undefined : { s: text };
  }
  if (typeof value['b'] === 'boolean') return { b: value['b'] };
  if (typeof value['bin'] === 'string') return { bin: scrubText(value['bin'], valueLengthMax) ?? '' };
  const text = scrubText(value['s'], valueLengthMax);
  return text === undefined ? undefined : { s: text };
}
