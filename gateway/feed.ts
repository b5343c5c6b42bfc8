import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import { confirmFeed, listRecentFeed } from '../db/feed.ts';
import { listRefusedCertificates } from '../db/identities.ts';
import type { Listener, Session } from './listener.ts';
import { createPeriodic, type Periodic } from './periodic.ts';

export type FeedDeps = {
  db: Db;
  gatewayId: string;
  listener: Pick<Listener, 'held' | 'cut'>;
  log: Pick<Logger, 'warn' | 'info'>;
  everyMs?: number;
  /** How long an entry is looked at: longer than any transaction that writes one, and than any connect takes. */
  overlapMs?: number;
};

/**
 * Follows revocations and blocks. An entry says "look again", no more: what is held here under its subject is judged by
 * the rows as at a connect, and cut when it would be refused now. So an entry may be seen often, late, or after it was
 * taken back. Once the sockets are closed, the entry gets this gateway's receipt.
 */
export function followFeed({ db, gatewayId, listener, log, everyMs = 1_000, overlapMs = 60_000 }: FeedDeps): Periodic {
  let lookedAt = performance.now();
  let confirmed = new Set<number>();

  async function look(): Promise<void> {
    const now = performance.now();
    // After an outage, all that was written since the last look that went well.
    const entries = await listRecentFeed(db, overlapMs + now - lookedAt);
    const subjects = new Set(entries.map(nameOf));
    const suspects = listener.held().filter((session) => subjectsOf(session).some((subject) => subjects.has(subject)));
    const cuts = suspects.length > 0 ? await cut(suspects) : [];
    lookedAt = now;
    const fresh = entries.filter(({ id }) => !confirmed.has(id));
    confirmed = new Set(entries.map(({ id }) => id));
    // Not waited for: a client that does not let go of its socket holds up nobody else's revocation.
    if (fresh.length > 0) void confirm(fresh, suspects, cuts);
  }

  async function cut(suspects: Session[]): Promise<Cut[]> {
    const certificateIds = [...new Set(suspects.map(({ identity }) => identity.certificateId))];
    const refused = await listRefusedCertificates(db, certificateIds);
    return refused.map(({ certificateId, refusal }) => {
      const closed = listener.cut({ certificateId }, 'FORBIDDEN_ACCESS');
      void closed.then(
        (count) => count > 0 && log.info({ certificateId, refusal, closed: count }, 'connections closed'),
      );
      return { certificateId, closed };
    });
  }

  async function confirm(entries: Entry[], suspects: Session[], cuts: Cut[]): Promise<void> {
    const closed = new Map<string, number>();
    for (const { certificateId, closed: closing } of cuts) {
      const one = suspects.find(({ identity }) => identity.certificateId === certificateId);
      const count = await closing;
      for (const subject of one ? subjectsOf(one) : []) closed.set(subject, (closed.get(subject) ?? 0) + count);
    }
    const receipts = entries.map((entry) => ({ id: entry.id, closed: closed.get(nameOf(entry)) ?? 0 }));
    await confirmFeed(db, gatewayId, receipts).catch((error: unknown) => {
      log.warn({ err: error }, 'receipts for the feed could not be written; the next look does');
      for (const { id } of entries) confirmed.delete(id);
    });
  }

  return createPeriodic({ name: 'following the feed', everyMs, work: look, log });
}

type Entry = Awaited<ReturnType<typeof listRecentFeed>>[number];
type Cut = { certificateId: string; closed: Promise<number> };

const nameOf = ({ kind, subject }: Entry) => `${kind}/${subject}`;

function subjectsOf({ identity }: Session): string[] {
  const certificate = `certificate/${identity.certificateId}`;
  if (identity.kind === 'device') return [certificate, `device/${identity.deviceId}`];
  return identity.kind === 'claim' ? [certificate, `claim/${identity.claimId}`] : [certificate];
}
