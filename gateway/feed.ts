import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import { listRecentFeed } from '../db/feed.ts';
import { listRefusedCertificates } from '../db/identities.ts';
import type { Listener, Session } from './listener.ts';
import { createPeriodic, type Periodic } from './periodic.ts';

export type FeedDeps = {
  db: Db;
  listener: Pick<Listener, 'held' | 'close'>;
  log: Pick<Logger, 'warn' | 'info'>;
  everyMs?: number;
  /** How long an entry is looked at: longer than any transaction that writes one, and than any connect takes. */
  overlapMs?: number;
};

/**
 * Follows revocations and blocks. An entry says "look again", no more: what is held here under its subject is judged by
 * the rows as at a connect, and closed when it would be refused now. So an entry may be seen often, late, or after it was
 * taken back.
 */
export function followFeed({ db, listener, log, everyMs = 1_000, overlapMs = 60_000 }: FeedDeps): Periodic {
  async function look(): Promise<void> {
    const subjects = new Set((await listRecentFeed(db, overlapMs)).map(({ kind, subject }) => `${kind}/${subject}`));
    if (subjects.size === 0) return;
    const suspects = listener.held().filter((session) => subjectsOf(session).some((subject) => subjects.has(subject)));
    if (suspects.length === 0) return;
    const certificateIds = [...new Set(suspects.map(({ identity }) => identity.certificateId))];
    for (const { certificateId, refusal } of await listRefusedCertificates(db, certificateIds)) {
      const closed = listener.close({ certificateId }, 'FORBIDDEN_ACCESS');
      if (closed > 0) log.info({ certificateId, refusal, closed }, 'connections closed');
    }
  }

  return createPeriodic({ name: 'following the feed', everyMs, work: look, log });
}

function subjectsOf({ identity }: Session): string[] {
  const certificate = `certificate/${identity.certificateId}`;
  if (identity.kind === 'device') return [certificate, `device/${identity.deviceId}`];
  return identity.kind === 'claim' ? [certificate, `claim/${identity.claimId}`] : [certificate];
}
