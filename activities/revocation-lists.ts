import { X509Certificate } from 'node:crypto';
import { listRevokedAuthorities } from '../db/authorities.ts';
import type { Database, Db } from '../db/client.ts';
import { findCertificate } from '../db/certificates.ts';
import {
  listDueLists,
  listListedCertificates,
  markListed,
  saveRevocationList,
  takeListTurn,
} from '../db/revocation-lists.ts';
import { revocationReasons, type ListSigner, type RevocationReason, type RevokedEntry } from '../pki/crl.ts';

const hourMs = 3_600_000;
const validMs = 7 * 24 * hourMs;
const everyMs = 8 * hourMs;
/** A list begins a little in the past, as certificates do: a verifier whose clock is slow must not refuse it. */
const backdateMs = 5 * 60_000;

/** Why a certificate of ours was revoked, where that is no word of RFC 5280. */
const ownReasons: Partial<Record<string, RevocationReason>> = {
  neverUsed: 'cessationOfOperation',
  claimRevoked: 'cessationOfOperation',
};

/**
 * Publishes the list of the signer's authority: made anew of the rows, signed, read back, and put in the place of the last.
 * Many that ask at once work one after the other, and who finds its certificate told of by then makes none: a thousand
 * revocations are a few lists. Repeating it is safe: it makes a list with a higher number, or none.
 */
export async function publishRevocationList(
  db: Database,
  signer: ListSigner,
  { unlessListed }: { unlessListed?: string } = {},
): Promise<void> {
  await db.transaction(async (tx) => {
    const next = await takeListTurn(tx, signer.id);
    if (unlessListed !== undefined && (await isListed(tx, unlessListed))) return;
    await markListed(tx, signer.id, next.number);
    const entries = (await listListedCertificates(tx, signer.id)).map(entryOf);
    await publish(tx, signer, { ...next, entries, nextUpdate: new Date(next.at.getTime() + validMs) });
  });
}

/**
 * Publishes the list of a root: the authorities under it that are revoked. It is good until the root itself ends, because
 * nobody can make the next one while the root's key is away, and a list that has ended makes strict verifiers refuse everybody.
 */
export async function publishRootList(db: Database, signer: ListSigner, nextUpdate: Date): Promise<void> {
  await db.transaction(async (tx) => {
    const next = await takeListTurn(tx, signer.id);
    const revoked = await listRevokedAuthorities(tx, signer.id);
    const entries = revoked.map(({ certificatePem, revokedAt, reason }) => {
      return entryOf({ serial: serialOf(certificatePem), revokedAtMs: revokedAt.getTime(), reason });
    });
    await publish(tx, signer, { ...next, entries, nextUpdate });
  });
}

type Publication = { number: number; at: Date; nextUpdate: Date; entries: RevokedEntry[] };

async function publish(db: Db, signer: ListSigner, { number, at, nextUpdate, entries }: Publication): Promise<void> {
  const thisUpdate = new Date(at.getTime() - backdateMs);
  const der = await signer.crl({ number, thisUpdate, nextUpdate, entries });
  const row = { authorityId: signer.id, number, der, entries: entries.length, publishedAt: at, nextUpdate };
  await saveRevocationList(db, row);
}

/**
 * Publishes every list that lacks a revocation, or is eight hours old. Gives the authorities whose list it was. One that cannot be
 * signed stands in the way of no other; it is said when they are done.
 */
export async function publishDueLists(db: Database, signers: ListSigner[]): Promise<string[]> {
  const ids = signers.map(({ id }) => id);
  const due = await listDueLists(db, ids, everyMs);
  const failures: unknown[] = [];
  for (const signer of signers) {
    if (due.includes(signer.id))
      await publishRevocationList(db, signer).catch((error: unknown) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
  return due;
}

const isListed = async (db: Db, id: string) => (await findCertificate(db, id))?.certificate.listNumber !== null;

/** A reason that a later release has brought is told as the one that is always true. */
const entryOf = ({
  serial,
  revokedAtMs,
  reason,
}: {
  serial: string;
  revokedAtMs: number;
  reason: string;
}): RevokedEntry => ({
  serial,
  revokedAt: new Date(revokedAtMs),
  reason: isReason(reason) ? reason : (ownReasons[reason] ?? 'cessationOfOperation'),
});

const serialOf = (pem: string) => new X509Certificate(pem).serialNumber;

const isReason = (reason: string): reason is RevocationReason => Object.hasOwn(revocationReasons, reason);
