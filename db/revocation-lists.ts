import { and, eq, getTableColumns, isNull, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { revocationLists } from './revocation-schema.ts';
import { authorities, certificates } from './schema.ts';

export type RevocationListRow = typeof revocationLists.$inferSelect;

export async function findRevocationList(db: Db, authorityId: string): Promise<RevocationListRow | undefined> {
  const [row] = await db.select().from(revocationLists).where(eq(revocationLists.authorityId, authorityId));
  return row;
}

/** What is to be known of a list to answer who has it already, without the list itself. */
export async function describeRevocationList(
  db: Db,
  authorityId: string,
): Promise<Omit<RevocationListRow, 'der'> | undefined> {
  const { der: _, ...columns } = getTableColumns(revocationLists);
  const [row] = await db.select(columns).from(revocationLists).where(eq(revocationLists.authorityId, authorityId));
  return row;
}

/** Of these authorities, those whose list is missing, older than that, or lacks a revocation. */
export async function listDueLists(db: Db, authorityIds: string[], everyMs: number): Promise<string[]> {
  const rows = await db.execute<{ id: string }>(sql`
    select a.id from authorities a left join revocation_lists l on l.authority_id = a.id
    where a.id = any (${sql.param(authorityIds)}::uuid[]) and (l.authority_id is null
      or l.published_at <= now() - make_interval(secs => ${everyMs / 1000}::double precision)
      or exists (select from certificates c
        where c.authority_id = a.id and c.state = 'REVOKED' and c.list_number is null))`);
  return rows.map(({ id }) => id);
}

export type NextList = { number: number; at: Date };

/**
 * Makes this transaction the only one that works on the authority's list, and says what the next is numbered: one more
 * than the last, and never less than the time in seconds, so that it rises also after the rows were restored from a backup.
 */
export async function takeListTurn(db: Db, authorityId: string): Promise<NextList> {
  await db.select({ id: authorities.id }).from(authorities).where(eq(authorities.id, authorityId)).for('no key update');
  const [row] = await db.execute<{ number: number; atMs: number }>(sql`
    select greatest(coalesce(l.number, 0) + 1, floor(extract(epoch from clock_timestamp())))::float8 as number,
      floor(extract(epoch from clock_timestamp()) * 1000)::float8 as "atMs"
    from authorities a left join revocation_lists l on l.authority_id = a.id where a.id = ${authorityId}::uuid`);
  if (!row) throw new Error(`there is no authority ${authorityId}`);
  return { number: row.number, at: new Date(row.atMs) };
}

/** Marks what no list has told of yet as told of by this one. */
export async function markListed(db: Db, authorityId: string, number: number): Promise<void> {
  const isRevoked = and(eq(certificates.authorityId, authorityId), eq(certificates.state, 'REVOKED'));
  await db
    .update(certificates)
    .set({ listNumber: number })
    .where(and(isRevoked, isNull(certificates.listNumber)));
}

export type ListedCertificate = { serial: string; revokedAtMs: number; reason: string };

/**
 * The entries of the authority's list: everything revoked that has not ended for an hour. As three texts in one row, because
 * a hundred thousand rows take a second to be read one by one.
 */
export async function listListedCertificates(db: Db, authorityId: string): Promise<ListedCertificate[]> {
  const [row] = await db.execute<{ serials: string | null; seconds: string | null; reasons: string | null }>(sql`
    select string_agg(serial, ',') as serials, string_agg(extract(epoch from revoked_at)::bigint::text, ',') as seconds,
      string_agg(revocation_reason, ',') as reasons
    from (
      select serial, coalesce(revoked_at, issued_at) as revoked_at, coalesce(revocation_reason, '') as revocation_reason
      from certificates
      where authority_id = ${authorityId}::uuid and state = 'REVOKED' and list_number is not null
        and not_after > now() - interval '1 hour') listed`);
  const [serials, seconds, reasons] = [row?.serials, row?.seconds, row?.reasons].map((text) => text?.split(',') ?? []);
  return (serials ?? []).map((serial, index) => {
    return { serial, revokedAtMs: Number(seconds?.[index]) * 1_000, reason: reasons?.[index] ?? '' };
  });
}

/** Puts the list in the place of the last, whole. */
export async function saveRevocationList(db: Db, row: RevocationListRow): Promise<void> {
  const set = {
    number: sql`excluded.number`,
    der: sql`excluded.der`,
    entries: sql`excluded.entries`,
    publishedAt: sql`excluded.published_at`,
    nextUpdate: sql`excluded.next_update`,
  };
  await db.insert(revocationLists).values(row).onConflictDoUpdate({ target: revocationLists.authorityId, set });
}
