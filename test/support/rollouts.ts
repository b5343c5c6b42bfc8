import { randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import type { Deps } from '../../activities/deps.ts';
import { rolloutActivities } from '../../activities/rollouts.ts';
import type { Db } from '../../db/client.ts';
import { insertJobs } from '../../db/jobs.ts';
import type { RolloutPlan } from '../../db/rollout-plan.ts';
import { releases, rollouts } from '../../db/rollout-schema.ts';
import { saveWaves } from '../../db/waves.ts';
import { makeDatabase } from './database.ts';

export const plainPlan: RolloutPlan = {
  targets: { filter: 'name==*', continuous: false },
  waves: [{}],
  gate: { succeededPercent: 100, soakSeconds: 0, manual: false, otherwise: 'pause' },
  limits: [],
  pace: { inFlightMax: 1_000 },
  timers: { startWithinSeconds: 3_600, endWithinSeconds: 3_600, verifyWithinSeconds: 60, rolloutSeconds: 30 * 86_400 },
  retries: { max: 0, backoffSeconds: 60, kinds: ['FAILED', 'TIMED_OUT'] },
  priority: 0,
  stopping: 'queued',
  approval: false,
  start: 'now',
};

/** Devices with these names' attributes, each connected, and running that version when one is given. */
export async function makeDevices(
  db: Db,
  count: number,
  { prefix = 'device', version, attributes = { hardware: 'rev-a' } }: DeviceOptions = {},
): Promise<string[]> {
  const ids = Array.from({ length: count }, () => randomUUIDv7());
  const names = ids.map((_, index) => `${prefix}-${String(index).padStart(5, '0')}`);
  await db.execute(sql`
    insert into devices (id, name, state, attributes)
    select id, name, 'ACTIVE', ${JSON.stringify(attributes)}::jsonb
    from unnest(${sql.param(ids)}::uuid[], ${sql.param(names)}::text[]) d (id, name)`);
  await db.execute(sql`
    insert into presence (device_id, connected, client_id, version, certificate_id, changed_at)
    select id, true, 'client', 1, repeat('0', 64), now() from unnest(${sql.param(ids)}::uuid[]) d (id)`);
  if (version) await runs(db, ids, version);
  return ids;
}

type DeviceOptions = { prefix?: string; version?: string; attributes?: Record<string, string> };

export const product = 'pump';

/** These devices report that they run the version. */
export async function runs(db: Db, ids: string[], version: string): Promise<void> {
  await db.execute(sql`
    insert into device_software (device_id, product, version)
    select id, ${product}, ${version} from unnest(${sql.param(ids)}::uuid[]) d (id)
    on conflict (device_id, product) do update set version = excluded.version, reported_at = now()`);
}

/** A release without a real manifest: the ledger goes by its columns. */
export async function makeRelease(
  db: Db,
  version: string,
  options: Partial<typeof releases.$inferInsert> = {},
): Promise<string> {
  const artifact = Buffer.alloc(32, version);
  await db.execute(sql`
    insert into artifacts (sha256, size, created_by) values (${artifact}, 10, 'test') on conflict do nothing`);
  await db.execute(sql`
    insert into release_keys (id, name, algorithm, public_key_pem, created_by) values ('key', 'key', 'ES256', '', 'test')
    on conflict do nothing`);
  const id = randomUUIDv7();
  const expiresAt = new Date(Date.now() + 86_400_000 * 365);
  const rest = { securityCounter: 1, manifest: 'header.payload.signature', keyId: 'key', artifact, expiresAt };
  const named = { artifactName: 'image.bin', hardware: ['rev-a'], createdBy: 'test' };
  await db.insert(releases).values({ id, product, version, ...rest, ...named, ...options });
  return id;
}

/** A rollout as the API records it, before its lifecycle has seen it. */
export async function makeRollout(
  db: Db,
  { plan = {}, releaseId }: { plan?: Partial<RolloutPlan>; releaseId?: string } = {},
): Promise<string> {
  const [id, jobId] = [randomUUIDv7(), randomUUIDv7()];
  const whole: RolloutPlan = { ...plainPlan, ...plan };
  await db.insert(rollouts).values({
    id,
    name: 'a rollout',
    state: 'CREATING',
    plan: whole,
    planHash: Buffer.alloc(32),
    jobId,
    releaseId: releaseId ?? null,
    priority: whole.priority,
    deadlineAt: new Date(Date.now() + 86_400_000 * 30),
    startsAt: whole.start === 'now' || whole.start === 'manual' ? null : new Date(whole.start),
    createdBy: 'api-key/test',
  });
  const endWithinSeconds = whole.timers.endWithinSeconds;
  await insertJobs(db, [{ id: jobId, rolloutId: id, document: '{"operation":"test"}', endWithinSeconds }]);
  await saveWaves(
    db,
    whole.waves.map((_, index) => ({
      rolloutId: id,
      number: index + 1,
      state: 'WAITING' as const,
      targets: 0,
      verdicts: {},
      undoTargets: 0,
      undoVerdicts: {},
      openedAt: null,
      soaksUntil: null,
      passedBy: null,
      endedAt: null,
    })),
  );
  return id;
}

/** The rollout's activities, with a clock that a test may turn. */
export function makeLedger({ db }: Pick<Deps, 'db'>) {
  let aheadMs = 0;
  const told: string[] = [];
  const activities = rolloutActivities({
    db,
    wire: { tell: (hint) => void ('orders' in hint && told.push(...hint.orders)) },
    clock: () => new Date(Date.now() + aheadMs),
  });
  return {
    told,
    advance: (ms: number) => void (aheadMs += ms),
    reset: () => void ([aheadMs, told.length] = [0, 0]),
    enlist: (rolloutId: string) => activities.enlistRollout({ rolloutId }),
    /** Reviews until there is nothing more to do at once. */
    async review(rolloutId: string) {
      for (;;) {
        const reviewed = await activities.reviewRollout({ rolloutId });
        if (reviewed.waitMs !== 0) return reviewed;
      }
    },
  };
}

/** What a rollout's devices do and say, on the rows: the wire has tests of its own. */
export function makeCrowd(db: Db) {
  type Execution = { deviceId: string; wave: number };
  const open = async (statuses = ['QUEUED', 'IN_PROGRESS']) =>
    db.execute<Execution>(sql`
      select e.device_id as "deviceId", t.wave from executions e
      join rollout_targets t on t.device_id = e.device_id and t.job_id = e.job_id
      where e.ended_at is null and e.status = any (${sql.param(statuses)}::text[]) order by t.wave, t.place`);
  const end = (ids: string[], status: string) =>
    db.execute(sql`
      update executions set status = ${status}, version = version + 1, ended_at = now(), due_at = null, step_due_at = null
      where ended_at is null and device_id = any (${sql.param(ids)}::uuid[])`);
  return {
    /** Devices with something to do, in the order of waves and places. */
    busy: async (): Promise<string[]> => (await open()).map(({ deviceId }) => deviceId),
    busyWaves: async (): Promise<number[]> => [...new Set((await open()).map(({ wave }) => wave))],
    start: (ids: string[], { dueInSeconds = 3_600 } = {}) =>
      db.execute(sql`
        update executions set status = 'IN_PROGRESS', version = version + 1, started_at = now(),
          due_at = now() + make_interval(secs => ${dueInSeconds}::int)
        where status = 'QUEUED' and device_id = any (${sql.param(ids)}::uuid[])`),
    end,
    /** Reports success, running that version. */
    async succeed(ids: string[], version?: string): Promise<void> {
      await end(ids, 'SUCCEEDED');
      if (version) await runs(db, ids, version);
    },
    connect: (ids: string[], connected: boolean) =>
      db.execute(sql`
        update presence set connected = ${connected}, changed_at = now() where device_id = any (${sql.param(ids)}::uuid[])`),
  };
}

/** How many devices of the rollout stand at which verdict, by its rows. */
export async function countVerdicts(db: Db, rolloutId: string): Promise<Record<string, number>> {
  const rows = await db.execute<{ verdict: string | null; count: number }>(sql`
    select coalesce(undo_verdict, verdict, state) as verdict, count(*)::int as count from rollout_targets
    where rollout_id = ${rolloutId}::uuid group by 1`);
  return Object.fromEntries(rows.map(({ verdict, count }) => [verdict, count]));
}

export async function decisionsOf(db: Db, rolloutId: string): Promise<{ kind: string; words: string }[]> {
  const rows = await db.execute<{ kind: string; words: string }>(sql`
    select kind, words from rollout_decisions where rollout_id = ${rolloutId}::uuid order by id`);
  return [...rows];
}

/** A database of its own, its ledger and its devices. */
export async function startRollouts() {
  const database = await makeDatabase();
  const { db } = database;
  const ledger = makeLedger(database);
  return {
    db,
    ledger,
    crowd: makeCrowd(db),
    /** A rollout of release 2.0.0 to that many devices on 1.0.0, begun. */
    async begin(count: number, plan: Partial<RolloutPlan> = {}) {
      const devices = await makeDevices(db, count, { version: '1.0.0' });
      const previous = await makeRelease(db, '1.0.0');
      const releaseId = await makeRelease(db, '2.0.0');
      const id = await makeRollout(db, { plan, releaseId });
      await ledger.enlist(id);
      const reviewed = await ledger.review(id);
      return { id, devices, previous, releaseId, reviewed, review: () => ledger.review(id) };
    },
    /** Empties what a test leaves: quicker than another database. */
    async reset(): Promise<void> {
      await db.execute(sql`
        truncate devices, presence, device_software, groups, group_members, artifacts, release_keys, releases, jobs,
          executions, job_notices, rollouts, waves, rollout_targets, rollout_decisions, events, outbox cascade`);
      ledger.reset();
    },
    [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
  };
}
