import { and, asc, desc, eq, gt, inArray, isNotNull, lt, lte, ne, or, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { instant, text, word, type Fields, type Page } from './fields.ts';
import { authorities, certificates, devices, feed } from './schema.ts';

export type CertificateRow = typeof certificates.$inferSelect;

/** False when the key lives in another certificate already: a key is never in two living certificates. */
export async function insertCertificate(db: Db, row: typeof certificates.$inferInsert): Promise<boolean> {
  const inserted = await db
    .insert(certificates)
    .values(row)
    .onConflictDoNothing({ target: certificates.spkiSha256, where: ne(certificates.state, 'REVOKED') })
    .returning({ id: certificates.id });
  return inserted.length === 1;
}

/** Whether any certificate with this key was ever in use, whatever became of it; an authority's own is. */
export async function wasKeyUsed(db: Db, spkiSha256: Uint8Array): Promise<boolean> {
  const [row] = await db
    .select({ id: certificates.id })
    .from(certificates)
    .where(and(eq(certificates.spkiSha256, spkiSha256), isNotNull(certificates.activatedAt)))
    .unionAll(
      db
        .select({ id: sql<string>`${authorities.id}::text` })
        .from(authorities)
        .where(eq(authorities.spkiSha256, spkiSha256)),
    )
    .limit(1);
  return row !== undefined;
}

/** Gives the certificate to its device. Only one that nobody has used yet can be given. */
export async function bindCertificate(db: Db, id: string, device: { id: string; name: string }): Promise<void> {
  await db
    .update(certificates)
    .set({ deviceId: device.id, subject: device.name })
    .where(and(eq(certificates.id, id), eq(certificates.state, 'PENDING_ACTIVATION')));
}

export async function findCertificateState(db: Db, id: string): Promise<CertificateRow['state'] | undefined> {
  const [row] = await db.select({ state: certificates.state }).from(certificates).where(eq(certificates.id, id));
  return row?.state;
}

/** The living certificates of a device but for one, in these states: at most a few. */
export async function listOtherCertificates(
  db: Db,
  { deviceId, keep, states }: { deviceId: string; keep: string; states: LivingState[] },
): Promise<string[]> {
  const rows = await db
    .select({ id: certificates.id })
    .from(certificates)
    .where(and(eq(certificates.deviceId, deviceId), ne(certificates.id, keep), inArray(certificates.state, states)));
  return rows.map(({ id }) => id);
}

type LivingState = 'PENDING_ACTIVATION' | 'ACTIVE';

/**
 * Revokes the certificate when it is in one of these states, and puts it on the feed that every gateway follows. False
 * when it is in another: of a revocation and an activation at the same moment, the row lets one win.
 */
export async function revokeCertificate(
  db: Db,
  { id, reason, from }: { id: string; reason: string; from: LivingState[] },
): Promise<boolean> {
  const revoked = await db
    .update(certificates)
    .set({ state: 'REVOKED', revocationReason: reason, revokedAt: sql`now()` })
    .where(and(eq(certificates.id, id), inArray(certificates.state, from)))
    .returning({ id: certificates.id });
  if (revoked.length === 0) return false;
  await db.insert(feed).values({ kind: 'certificate', subject: id });
  return true;
}

/** What GET /certificates may be filtered by, each with its index. */
export const certificateFields: Fields = {
  id: text(certificates.id),
  kind: word(certificates.kind, ['device', 'claim', 'service']),
  state: word(certificates.state, ['PENDING_ACTIVATION', 'ACTIVE', 'REVOKED']),
  serial: text(certificates.serial),
  issuedAt: instant(certificates.issuedAt),
};

export type CertificatePage = Page<[issuedAt: string, id: string]>;

/** The youngest first; of one device when it is given. */
export async function listCertificates(db: Db, { filter, after, limit }: CertificatePage, deviceId?: string) {
  const { issuedAt, id } = certificates;
  const key = after && ([new Date(after[0]), after[1]] as const);
  return db
    .select(certificateColumns)
    .from(certificates)
    .leftJoin(devices, eq(devices.id, certificates.deviceId))
    .where(
      and(
        filter,
        deviceId === undefined ? undefined : eq(certificates.deviceId, deviceId),
        // Two conditions, because the index goes down by one column and up by the other.
        key && and(lte(issuedAt, key[0]), or(lt(issuedAt, key[0]), gt(id, key[1]))),
      ),
    )
    .orderBy(desc(issuedAt), asc(id))
    .limit(limit);
}

export async function findCertificate(db: Db, id: string) {
  const [row] = await db
    .select(certificateColumns)
    .from(certificates)
    .leftJoin(devices, eq(devices.id, certificates.deviceId))
    .where(eq(certificates.id, id));
  return row;
}

const certificateColumns = { certificate: certificates, device: devices.name };
