import { and, asc, eq, gt, ne, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import { countLiving, lockAuthorities, type AuthorityRow } from './authorities.ts';
import type { Db } from './client.ts';
import type { Page } from './fields.ts';
import { activate, announceState, startRotationRuns } from './rollovers.ts';
import type { RotationWorkflow } from './rotation-beginnings.ts';
import { authorities, certificates, devices } from './schema.ts';
import { publishTrustBundle } from './trust-bundles.ts';

export type EndAuthority =
  | { id: string; state: 'RETIRED'; reason?: undefined }
  | { id: string; state: 'REVOKED'; reason: string };

/**
 * `root`: nobody stands above it who could. `last`: nobody else could. `inUse`: an authority under this root still issues or
 * stands by. A number: so many certificates live under this root.
 */
export type EndRefusal = 'unknown' | 'root' | 'last' | 'inUse' | number;

/**
 * Takes an authority out of service. From the commit on it issues nothing; what it has issued stays good until it is replaced,
 * which begins at once. Done already, it changes nothing; a retired one may still be revoked. Only a revocation may leave
 * the fleet without one that issues; where one under the same root stands by, that takes over in the same transaction.
 */
export async function endAuthority(
  db: Db,
  actor: Actor,
  { id, state, reason }: EndAuthority,
  runs: RotationWorkflow,
): Promise<AuthorityRow | EndRefusal> {
  return db.transaction(async (tx) => {
    await lockAuthorities(tx);
    const rows = await tx.select().from(authorities);
    const row = rows.find((candidate) => candidate.id === id);
    if (!row) return 'unknown';
    const refused = row.state === state || row.state === 'REVOKED' ? row : await refusalOf(tx, { row, rows, state });
    if (refused !== undefined) return refused;
    const [ended = row] = await tx
      .update(authorities)
      .set({ state, revocationReason: reason ?? null, endedAt: sql`clock_timestamp()` })
      .where(eq(authorities.id, id))
      .returning();
    const subject = `authority/${id}`;
    if (reason === undefined) await insertAudit(tx, actor, { action: 'authority.retired', subject, data: {} });
    else await insertAudit(tx, actor, { action: 'authority.revoked', subject, data: { reason } });
    await announceState(tx, [id]);
    if (row.kind === 'root') await publishTrustBundle(tx, actor);
    else {
      await succeed(tx, actor, { row, rows });
      await startRotationRuns(tx, runs);
    }
    return ended;
  });
}

type Standing = { row: AuthorityRow; rows: AuthorityRow[] };

async function refusalOf(
  tx: Db,
  { row, rows, state }: Standing & { state: EndAuthority['state'] },
): Promise<EndRefusal | undefined> {
  const others = rows.filter(({ id, kind, state: standing }) => {
    return id !== row.id && kind === row.kind && standing === 'ACTIVE';
  });
  if (row.kind === 'root') {
    if (state === 'REVOKED') return 'root';
    if (others.length === 0) return 'last';
    const below = rows.filter(({ parentId }) => parentId === row.id);
    if (below.some((each) => each.state === 'ACTIVE' || each.state === 'STANDBY')) return 'inUse';
    const living = await countLiving(tx);
    const count = below.reduce((sum, { id }) => sum + (living.get(id) ?? 0), 0);
    return count > 0 ? count : undefined;
  }
  return state === 'RETIRED' && row.state === 'ACTIVE' && others.length === 0 ? 'last' : undefined;
}

/** Devices know the root of whoever takes over: it is the same. */
async function succeed(tx: Db, actor: Actor, { row, rows }: Standing): Promise<void> {
  const isIssuing = rows.some(({ id, kind, state }) => id !== row.id && kind === 'issuing' && state === 'ACTIVE');
  const successor = rows
    .filter(({ state, parentId }) => state === 'STANDBY' && parentId === row.parentId)
    .toSorted((a, b) => b.createdAt.getTime() - a.createdAt.getTime())[0];
  if (isIssuing || row.state !== 'ACTIVE' || !successor) return;
  await activate(tx, actor, { authorityId: successor.id, unacknowledged: 0 });
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
