import { timingSafeEqual } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { insertAudit } from '../db/audit.ts';
import { countClaimFailures, noteClaimFailures } from '../db/claim-failures.ts';
import { findClaim, type ClaimRow } from '../db/claims.ts';
import type { Db } from '../db/client.ts';
import { readClaimToken } from '../pki/claim-tokens.ts';
import { findRefusal, refusal } from '../workflows/refusals.ts';
import type { Permit } from './entrance.ts';

export type ClaimTokensDeps = {
  db: Db;
  /** Within `windowMs`. Networks are locked out by their own count; a claim that many guess at is wary of each of them. */
  limits?: Partial<typeof defaultLimits>;
  /** A refusal takes as long as this, whatever it was that was wrong. */
  refuseAfterMs?: number;
};

const defaultLimits = { failuresPerNetwork: 20, failuresPerClaim: 100, windowMs: 15 * 60_000 };

const nobody = { claimId: '00000000-0000-0000-0000-000000000000', tokenHash: new Uint8Array(32) };

/**
 * What a token permits, to whoever shows it from this address. Whatever is wrong with it, a refusal has the same words
 * and takes the same time. Guessing is counted in rows, which all doors share: a network that has guessed too often is
 * refused for the rest of the window, whatever it shows, and a claim that was guessed at too often from everywhere takes
 * its token only from networks that have not guessed. So a valid token elsewhere is never hindered.
 */
export function createClaimTokens({ db, limits, refuseAfterMs = 200 }: ClaimTokensDeps) {
  const { failuresPerNetwork, failuresPerClaim, windowMs } = { ...defaultLimits, ...limits };

  async function judge(claim: ClaimRow | undefined, tokenHash: Uint8Array, network: string): Promise<Verdict> {
    const isRight = timingSafeEqual(tokenHash, claim?.tokenHash ?? nobody.tokenHash) && claim?.kind === 'token';
    const [ofClaim = 0, ofNetwork = 0] = await countClaimFailures(db, [subjectOf(claim), network], windowMs);
    const isGuessedAt = claim !== undefined && ofClaim >= failuresPerClaim && ofNetwork > 0;
    if (isGuessedAt || ofNetwork >= failuresPerNetwork) throw lockedOut();
    if (!claim || !isRight) return 'WrongToken';
    if (claim.revokedAt) return 'ClaimRevoked';
    return claim.expiresAt <= new Date() ? 'ClaimExpired' : { claimId: claim.id, template: claim.template };
  }

  return {
    /** Lets through, or refuses with `ClaimRefused` or `TooManyAttempts`. */
    permit: ({ token, address }: { token: string; address: string }): Promise<Permit> =>
      evenly(refuseAfterMs, async () => {
        const network = networkOf(address);
        const { claimId, tokenHash } = readClaimToken(token) ?? nobody;
        const claim = await findClaim(db, claimId);
        const verdict = await judge(claim, tokenHash, network);
        if (typeof verdict === 'object') return verdict;
        // Who holds a right token that is over does not guess.
        const by = verdict === 'WrongToken' ? 1 : 0;
        await noteClaimFailures(db, [subjectOf(claim), network], { windowMs, by });
        if (claim) await record(claim, verdict, network);
        throw claimRefused();
      }),

    /**
     * Says a claim's own no, met further in, like the no to a wrong token, so that there is one no: to try a claim that is
     * used up tells nothing more than to try one that never was.
     */
    conceal: <T>(work: () => Promise<T>): Promise<T> =>
      evenly(refuseAfterMs, () =>
        work().catch((error: unknown) => {
          throw claimFaults.has(findRefusal(error)?.code ?? '') ? claimRefused() : error;
        }),
      ),
  };

  async function record({ id }: ClaimRow, code: string, network: string): Promise<void> {
    const data = { code, detail: `a token was refused that came from ${network}` };
    await insertAudit(db, `claim/${id}`, { action: 'enrolment.refused', subject: `claim/${id}`, data });
  }
}

type Verdict = Permit | 'WrongToken' | 'ClaimRevoked' | 'ClaimExpired';

const claimFaults = new Set(['ClaimNotFound', 'ClaimRevoked', 'ClaimExpired', 'ClaimExhausted']);

/** A no leaves when its time has come; a yes at once. */
async function evenly<T>(ms: number, work: () => Promise<T>): Promise<T> {
  const until = performance.now() + ms;
  try {
    return await work();
  } catch (error) {
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, until - performance.now())));
    throw error;
  }
}

/** Claims that are not there share one count, which locks out nobody: strangers make no rows. */
const subjectOf = (claim?: ClaimRow) => `claim/${claim?.id ?? 'unknown'}`;

/** The network that an address is in: /24 of IPv4, /56 of IPv6, which is what one subscriber has. */
export function networkOf(address: string): string {
  const plainly = /^(?:::ffff:)?(\d+\.\d+\.\d+)\.\d+$/i.exec(address)?.[1];
  if (plainly) return `network/${plainly}.0/24`;
  if (!isIPv6(address)) return 'network/unknown';
  const [head = '', tail] = (address.split('%')[0] ?? '').split('::');
  const first = head.split(':').filter(Boolean);
  const last = tail?.split(':').filter(Boolean) ?? [];
  const zeros = Array.from({ length: Math.max(0, 8 - first.length - last.length) }, () => '0');
  const groups = tail === undefined ? first : [...first, ...zeros, ...last];
  const [a, b, c, d] = groups.map((group) => Number.parseInt(group, 16));
  return `network/${[a, b, c, (d ?? 0) & 0xff00].map((group = 0) => group.toString(16)).join(':')}::/56`;
}

const claimRefused = () => refusal('ClaimRefused', 'the claim does not permit this', 401);
const lockedOut = () => refusal('TooManyAttempts', 'too many wrong claims came from here; try again later', 429);
