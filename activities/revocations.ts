import { insertAudit } from '../db/audit.ts';
import { findCertificate } from '../db/certificates.ts';
import { probeFeed, type FeedStanding } from '../db/feed.ts';
import { findRevocation, finishRevocation, type RevocationTimes } from '../db/revocations.ts';
import { refusal } from '../workflows/refusals.ts';
import type { Deps } from './deps.ts';
import { publishRevocationList } from './revocation-lists.ts';

export type Probed = { proven: boolean; unheard: string[]; waitingFor: string };
type Finished = { status: 'PROVEN' | 'UNCONFIRMED'; summary: string };

export const revocationActivities = ({ db, authority, lists = async () => [authority] }: Deps) => ({
  /**
   * Whether the revocation has arrived: no session of the certificate is open by the rows, and every gateway that lives has
   * said that it looked and closed. That is as much as can be shown without the device's own key: a gateway judges a new
   * connection by the row itself. Reading only, so repeating it is safe.
   */
  async probeRevocation({ certificateId }: { certificateId: string }): Promise<Probed> {
    const revocation = await findRevocation(db, certificateId);
    if (!revocation) throw refusal('RevocationNotFound', 'nobody asked for this revocation', 404);
    return judgeStanding(await probeFeed(db, { feedId: revocation.feedId, certificateId }));
  },

  /**
   * Publishes a list that tells of the certificate. Repeating it is safe: when one does already, none is made. A certificate
   * whose authority's key is not here has no list of ours.
   */
  async listRevocation({ certificateId }: { certificateId: string }): Promise<void> {
    const found = await findCertificate(db, certificateId);
    const signer = (await lists()).find(({ id }) => id === found?.certificate.authorityId);
    if (signer) await publishRevocationList(db, signer, { unlessListed: certificateId });
  },

  /**
   * Ends the revocation, and records what was measured. Repeating it is safe: the row ends once, together with its entry.
   */
  async finishRevocation(request: { certificateId: string; unheard: string[] }): Promise<Finished> {
    const { certificateId, unheard } = request;
    const status = unheard.length === 0 ? 'PROVEN' : 'UNCONFIRMED';
    return db.transaction(async (tx) => {
      const times = await finishRevocation(tx, certificateId);
      if (!times) return { status, summary: 'It has ended already.' };
      const data = { ...describe(times), unheard };
      const action = status === 'PROVEN' ? 'certificate.revocation-proven' : 'certificate.revocation-unconfirmed';
      await insertAudit(tx, 'system/lifecycle', { action, subject: `certificate/${certificateId}`, data });
      return { status, summary: summarise(times, unheard) };
    });
  },
});

export const judgeStanding = ({ unheard, openSessions }: FeedStanding): Probed => ({
  proven: openSessions === 0 && unheard.length === 0,
  unheard,
  waitingFor: openSessions > 0 ? `${openSessions} sessions to be closed` : `${unheard.length} gateways to confirm`,
});

const describe = ({ askedAtMs, revokedAtMs, closedAtMs, listedAtMs, ...counted }: RevocationTimes) => ({
  ...counted,
  askedAt: timeOf(askedAtMs),
  revokedAt: timeOf(revokedAtMs),
  closedAt: timeOf(closedAtMs),
  listedAt: timeOf(listedAtMs),
});

const timeOf = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());

function summarise({ askedAtMs, closedAtMs, listedAtMs, ...times }: RevocationTimes, unheard: string[]): string {
  const { sessionsClosed, gateways, listNumber } = times;
  const after = (ms: number | null) => (ms === null ? '' : ` after ${Math.max(0, Math.round(ms - askedAtMs))} ms`);
  return [
    `${sessionsClosed} sessions were cut${after(closedAtMs)};`,
    listNumber === null ? 'there is no list of its authority;' : `list ${listNumber} told of it${after(listedAtMs)};`,
    `${gateways} gateways confirmed.`,
    ...(unheard.length > 0 ? [`These did not: ${unheard.join(', ')}.`] : []),
  ].join(' ');
}
