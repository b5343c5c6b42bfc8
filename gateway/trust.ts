import type { Logger } from 'pino';
import type { Db } from '../db/client.ts';
import { listTrustAnchors } from '../db/manufacturer-authorities.ts';
import { createPeriodic, type Periodic } from './periodic.ts';

export type TrustDeps = {
  db: Db;
  log: Pick<Logger, 'warn' | 'info'>;
  /** How late a change may be seen whose hint was lost. */
  everyMs: number;
  /** Takes the authorities, PEM, that handshakes are judged by from now on. */
  trust: (authoritiesPem: string[]) => void;
};

/** Keeps what a server trusts as the rows say: an authority that is registered, retired or over needs no restart. */
export function followTrust({ db, log, everyMs, trust }: TrustDeps): Periodic {
  let trusted: string | undefined;
  return createPeriodic({
    name: 'following the trust store',
    everyMs,
    log,
    async work() {
      const anchors = await listTrustAnchors(db);
      const now = anchors.join('');
      if (now === trusted) return;
      trust(anchors);
      if (trusted !== undefined) log.info({ authorities: anchors.length }, 'the trust store has changed');
      trusted = now;
    },
  });
}
