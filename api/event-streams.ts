import { setTimeout as delay } from 'node:timers/promises';
import type { Db } from '../db/client.ts';
import type { EventPosition } from '../db/events.ts';
import { eventsMax, listEventsOf, type SubjectEvent } from '../db/rollout-events.ts';
import { Problem } from './problem.ts';

export type StreamLimits = {
  perKeyMax: number;
  pollMs: number;
  heartbeatMs: number;
  /** A stream ends after this, and its client comes again: so a revoked key hears nothing more. */
  lifetimeMs: number;
};

export type EventStreamsDeps = {
  db: Db;
  report: (error: unknown) => void;
  /** Aborted when the process is about to stop. */
  closing?: AbortSignal | undefined;
  streams?: Partial<StreamLimits> | undefined;
};

const defaults: StreamLimits = { perKeyMax: 8, pollMs: 1_000, heartbeatMs: 15_000, lifetimeMs: 900_000 };

/** Follows what happens to a subject, as server-sent events from a place on, for the owner of that key. */
export type OpenStream = (credential: string, subject: string, after: EventPosition) => ReadableStream<Uint8Array>;

export function createEventStreams({ db, report, closing, streams }: EventStreamsDeps): OpenStream {
  const limits = { ...defaults, ...streams };
  const open = new Map<string, number>();

  function take(credential: string): () => void {
    const count = open.get(credential) ?? 0;
    if (count >= limits.perKeyMax) throw tooMany(limits.perKeyMax);
    open.set(credential, count + 1);
    return () => {
      const left = (open.get(credential) ?? 1) - 1;
      if (left > 0) open.set(credential, left);
      else open.delete(credential);
    };
  }

  async function* follow(subject: string, from: EventPosition, over: AbortSignal): AsyncGenerator<string> {
    yield `retry: ${limits.pollMs}\n\n`;
    let after = from;
    let spokenAt = performance.now();
    while (!over.aborted) {
      const events = await listEventsOf(db, subject, after);
      if (events.length > 0 || performance.now() - spokenAt > limits.heartbeatMs) {
        yield events.map(write).join('') || ': nothing new\n\n';
        spokenAt = performance.now();
      }
      after = events.at(-1) ?? after;
      if (events.length < eventsMax) await nap(limits.pollMs, over);
    }
  }

  return (credential, subject, after) => {
    const release = take(credential);
    const over = new AbortController();
    const end = () => over.abort();
    const timer = setTimeout(end, limits.lifetimeMs);
    closing?.addEventListener('abort', end);
    over.signal.addEventListener('abort', () => {
      clearTimeout(timer);
      closing?.removeEventListener('abort', end);
      release();
    });
    const chunks = follow(subject, after, over.signal);
    const encoder = new TextEncoder();
    return new ReadableStream({
      async pull(controller) {
        try {
          const { value, done } = await chunks.next();
          if (!done) return controller.enqueue(encoder.encode(value));
        } catch (error) {
          report(error); // the client comes again, with the last id that it has
        }
        end();
        controller.close();
      },
      cancel: end,
    });
  };
}

const nap = (ms: number, over: AbortSignal) => delay(ms, undefined, { signal: over }).catch(() => {});

const write = ({ xid, id, kind, device, data, atMs }: SubjectEvent) =>
  `id: ${xid}-${id}\nevent: ${kind}\ndata: ${JSON.stringify({ at: new Date(atMs).toISOString(), device, ...data })}\n\n`;

const tooMany = (perKeyMax: number) =>
  new Problem('too-many-requests', `A key may hold ${perKeyMax} streams of events open.`, {
    headers: { 'Retry-After': '5' },
  });
