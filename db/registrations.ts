import { and, asc, desc, eq, gt, inArray, isNull, lt, sql } from 'drizzle-orm';
import { insertAudit, type Actor } from './audit.ts';
import type { Db } from './client.ts';
import { instant, word, type Fields, type Page } from './fields.ts';
import { registrationChunks, registrationFaults, registrations, registrationStates } from './registration-schema.ts';

export type RegistrationRow = typeof registrations.$inferSelect;
export type FaultRow = typeof registrationFaults.$inferSelect;

/** Every chunk of a file but its last has so many bytes: the number of one says which bytes it holds. */
export const chunkBytes = 512 * 1024;

/** A file that is coming in. Nobody sees it before it is whole. */
export async function beginUpload(
  db: Db,
  upload: Pick<RegistrationRow, 'id' | 'format' | 'columns' | 'byteOffset' | 'line' | 'createdBy'>,
): Promise<void> {
  await db.insert(registrations).values({ ...upload, state: 'UPLOADING' });
}

export async function insertChunk(db: Db, registrationId: string, number: number, bytes: Uint8Array): Promise<void> {
  await db.insert(registrationChunks).values({ registrationId, number, bytes });
}

/** With its chunks. */
export async function deleteUpload(db: Db, id: string): Promise<void> {
  await db.delete(registrations).where(and(eq(registrations.id, id), eq(registrations.state, 'UPLOADING')));
}

/** The file is whole: its lifecycle is started, in one statement with its audit entry's. */
export async function finishUpload(
  db: Db,
  actor: Actor,
  { id, size, sha256, workflow }: Whole,
): Promise<RegistrationRow | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx
      .update(registrations)
      .set({ state: 'WAITING', size, sha256 })
      .where(and(eq(registrations.id, id), eq(registrations.state, 'UPLOADING')))
      .returning();
    if (!row) return undefined;
    await tx.execute(sql`
      insert into outbox (shard, kind, workflow_id, name, argument)
      select outbox_shard(workflow_id), 'start', workflow_id, ${workflow.name}::text, jsonb_build_object('registrationId', ${id}::text)
      from (select ${workflow.idPrefix + id}::text as workflow_id) w`);
    const data = { size, sha256: Buffer.from(sha256).toString('hex') };
    await insertAudit(tx, actor, { action: 'registration.created', subject: `registration/${id}`, data });
    return row;
  });
}

type Whole = {
  id: string;
  size: number;
  sha256: Uint8Array;
  workflow: { idPrefix: string; name: string };
};

/** Undefined also while it is coming in. */
export async function findRegistration(db: Db, id: string): Promise<RegistrationRow | undefined> {
  const [row] = await db
    .select()
    .from(registrations)
    .where(and(eq(registrations.id, id), inArray(registrations.state, ['WAITING', 'RUNNING', 'FINISHED', 'CANCELED'])));
  return row;
}

/** What GET /registrations may be filtered by. */
export const registrationFields: Fields = {
  state: word(registrations.state, registrationStates.slice(1)),
  createdAt: instant(registrations.createdAt, { id: registrations.id }),
};

/** The youngest first. */
export async function listRegistrations(
  db: Db,
  { filter, after, limit }: Page<[id: string]>,
): Promise<RegistrationRow[]> {
  return db
    .select()
    .from(registrations)
    .where(and(filter, sql`${registrations.state} <> 'UPLOADING'`, after && lt(registrations.id, after[0])))
    .orderBy(desc(registrations.id))
    .limit(limit);
}

export type FaultPage = Page<[line: string]>;

/** In the order of the file. */
export async function listFaults(db: Db, registrationId: string, { after, limit }: FaultPage): Promise<FaultRow[]> {
  return db
    .select()
    .from(registrationFaults)
    .where(
      and(
        eq(registrationFaults.registrationId, registrationId),
        after && gt(registrationFaults.line, Number(after[0])),
      ),
    )
    .orderBy(asc(registrationFaults.line))
    .limit(limit);
}

/** Ends it where it is: what was registered stays. Undefined when it has ended, or is unknown. */
export async function cancelRegistration(db: Db, actor: Actor, id: string): Promise<RegistrationRow | undefined> {
  return db.transaction(async (tx) => {
    const row = await endRegistration(tx, id, 'CANCELED');
    if (!row) return undefined;
    const data = { registered: row.registered, refused: row.refused };
    await insertAudit(tx, actor, { action: 'registration.canceled', subject: `registration/${id}`, data });
    return row;
  });
}

/** Ends one that has not ended, and drops its file. */
export async function endRegistration(
  db: Db,
  id: string,
  state: 'FINISHED' | 'CANCELED',
): Promise<RegistrationRow | undefined> {
  const [row] = await db
    .update(registrations)
    .set({ state, finishedAt: sql`now()` })
    .where(and(eq(registrations.id, id), inArray(registrations.state, ['WAITING', 'RUNNING'])))
    .returning();
  if (row) await db.delete(registrationChunks).where(eq(registrationChunks.registrationId, id));
  return row;
}

/** Uploads that broke off a day ago, and what ended three months ago, with their reports. */
export async function deleteOldRegistrations(db: Db): Promise<void> {
  const isAbandoned = and(
    eq(registrations.state, 'UPLOADING'),
    lt(registrations.createdAt, sql`now() - interval '2 days'`),
  );
  await db.delete(registrations).where(and(isNull(registrations.finishedAt), isAbandoned));
  await db.delete(registrations).where(lt(registrations.finishedAt, sql`now() - interval '90 days'`));
}
