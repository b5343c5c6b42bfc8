import { and, asc, eq, gt, ne, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { AuthorityRow } from './authorities.ts';
import type { Db } from './client.ts';
import type { Page } from './fields.ts';
import { authorities, certificates, devices } from './schema.ts';

export type EndAuthority =
  | { id: string; state: 'RETIRED'; reason?: undefined }
  | { id: string; state: 'REVOKED'; reason: string };

/** `root`: nobody stands above it who could. `last`: nobody else could issue. */
export type EndRefusal = 'unknown' | 'root' | 'last';

/**
 * Takes an authority out of service. From the commit on it issues nothing; what it has issued stays good until it is replaced.
 * Done already, it changes nothing; a retired one may still be revoked. Only a revocation may leave the fleet without one
 * that issues.
 */
export async function endAuthority(
  db: Db,
  actor: Actor,
  { id, state, reason }: EndAuthority,
): Promise<AuthorityRow | EndRefusal> {
  return db.transaction(async (tx) => {
    // All of the kind, in one order: of two that are retired at once, one is the last.
    const rows = await tx.select().from(authorities).orderBy(asc(authorities.id)).for('no key update');
    const row = rows.find((candidate) => candidate.id === id);
    if (!row) return 'unknown';
    if (row.kind === 'root') return 'root';
    if (row.state === state || row.state === 'REVOKED') return row;
    const others = rows.filter(({ kind, state: standing }) => kind === row.kind && standing === 'ACTIVE');
    if (state === 'RETIRED' && others.length < 2) return 'last';
    const [ended = row] = await tx
      .update(authorities)
      .set({ state, revocationReason: reason ?? null, endedAt: sql`clock_timestamp()` })
      .where(eq(authorities.id, id))
      .returning();
    const subject = `authority/${id}`;
    if (reason === undefined) await insertAudit(tx, actor, { action: 'authority.retired', subject, data: {} });
    else await insertAudit(tx, actor, { action: 'authority.revoked', subject, data: { reason } });
    await tx.execute(sql`
      insert into events (id, kind, subject, data) values (uuid_now(), ${`authority.${state.toLowerCase()}`}, ${subject},
        jsonb_build_object('authorityId', ${id}::text))`);
    return ended;
  });
}

const isLivingUnder = (authorityId: string) =>
  and(
    eq(certificates.authorityId, authorityId),
    ne(certificates.state, 'REVOKED'),
    gt(certificates.notAfter, sql`now()`),
  );

/** How many devices have a living certificate of the authority. */
export async function countDevicesUnder(db: Db, authorityId: string): Promise<number> {
  const [row] = await db
    .select({ count: sql<number>`count(distinct ${certificates.deviceId})::int` })
    .from(certificates)
    .where(isLivingUnder(authorityId));
  return row?.count ?? 0;
}

export type LivingUnder = { deviceId: string; device: string; certificateId: string; notAfter: Date };

/** Living certificates of the authority with their devices, by the device's and the certificate's id. */
export async function listDevicesUnder(
  db: Db,
  { after, limit }: Page<[deviceId: string, certificateId: string]>,
  authorityId: string,
): Promise<LivingUnder[]> {
  const { id, deviceId, notAfter } = certificates;
  return db
    .select({ deviceId: devices.id, device: devices.name, certificateId: id, notAfter })
    .from(certificates)
    .innerJoin(devices, eq(devices.id, deviceId))
    .where(and(isLivingUnder(authorityId), after && sql`(${deviceId}, ${id}) > (${after[0]}::uuid, ${after[1]})`))
    .orderBy(asc(deviceId), asc(id))
    .limit(limit);
}

export type Ending = { id: string; name: string; notAfter: string; months: number };

/** How many months before its end an authority is warned of. */
const warnings = [24, 12, 6, 3];

/**
 * Tells, once for each of these times, that an authority ends in so many months, with audit entry and event; of several that
 * have passed, the nearest. A revoked one is not in any chain any more. Whoever calls is given what it told of.
 */
export async function warnOfEndings(db: Db): Promise<Ending[]> {
  const rows = await db.execute<Ending>(sql`
    with passed as (
      insert into authority_warnings (authority_id, months)
      select a.id, m.months from authorities a cross join unnest(${sql.param(warnings)}::int[]) as m (months)
      where a.state <> 'REVOKED' and a.not_after <= now() + make_interval(months => m.months)
      order by a.id, m.months
      on conflict do nothing
      returning authority_id, months
    ), nearest as (
      select authority_id, min(months) as months from passed group by authority_id
    ), told as (
      select a.id, a.name, a.not_after, n.months from nearest n join authorities a on a.id = n.authority_id
    ), recorded as (
      insert into audit (id, actor, action, subject, data)
      select uuid_now(), 'system/lifecycle', 'authority.ending', 'authority/' || id,
        jsonb_build_object('months', months, 'notAfter', not_after) from told
    ), announced as (
      insert into events (id, kind, subject, data)
      select uuid_now(), 'authority.ending', 'authority/' || id,
        jsonb_build_object('authorityId', id, 'months', months, 'notAfter', not_after) from told
    )
    select id, name, not_after::text as "notAfter", months from told`);
  return [...rows];
}
