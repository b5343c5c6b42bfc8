import { setTimeout as pause } from 'node:timers/promises';
import type { Report } from './device-journal.ts';

/**
 * What a simulated device can do. `{"operation":"echo","message":…}` gives the message back, `{"operation":"sleep",
 * "seconds":…}` takes that long, `fail` and `reject` end so with the given `reason`; it takes note of anything else.
 * Rejects only when `signal` ends the work.
 */
export async function work(payload: Buffer, signal: AbortSignal): Promise<Report> {
  const request = parse(payload);
  switch (request['operation']) {
    case 'echo':
      return { status: 'SUCCEEDED', result: { message: { s: asText(request['message']) } } };
    case 'sleep': {
      const seconds = Number(request['seconds'] ?? 1);
      await pause(seconds * 1_000, undefined, { signal });
      return { status: 'SUCCEEDED', result: { slept: { s: `${seconds} s` } } };
    }
    case 'fail':
      return { status: 'FAILED', statusReason: reasonOf(request, 'TOLD_TO_FAIL') };
    case 'reject':
      return { status: 'REJECTED', statusReason: reasonOf(request, 'TOLD_TO_REJECT') };
    default:
      return { status: 'SUCCEEDED', result: { noted: { s: `${payload.length} bytes` } } };
  }
}

function parse(payload: Buffer): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(payload.toString());
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}

const asText = (value: unknown) => (typeof value === 'string' ? value : (JSON.stringify(value) ?? ''));

/** AWS Commands: 64 characters of `[A-Z0-9_-]`. */
function reasonOf(request: Record<string, unknown>, otherwise: string): { reasonCode: string } {
  const code = asText(request['reason'])
    .toUpperCase()
    .replaceAll(/[^A-Z0-9_-]/g, '_')
    .slice(0, 64);
  return { reasonCode: code || otherwise };
}
