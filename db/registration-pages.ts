import { and, eq, sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';
import { registrationChunks, registrations } from './registration-schema.ts';
import type { RegistrationRow } from './registrations.ts';

/** Undefined behind the last. */
export async function readChunk(db: Db, registrationId: string, number: number): Promise<Buffer | undefined> {
  const [row] = await db
    .select({ bytes: registrationChunks.bytes })
    .from(registrationChunks)
    .where(and(eq(registrationChunks.registrationId, registrationId), eq(registrationChunks.number, number)));
  return row && Buffer.from(row.bytes);
}

/** The row, locked; whoever reads on holds it until what was read is done. */
export async function lockRegistration(db: Db, id: string): Promise<RegistrationRow | undefined> {
  const [row] = await db.select().from(registrations).where(eq(registrations.id, id)).for('no key update');
  return row;
}

/** What the fleet holds against a line: the first that is not null, in this order, is what it is refused for. */
export type Conflict = {
  line: number;
  /** The line of the same file that has registered the name already; 0 when somebody else has. */
  nameTaken: number | null;
  nameBlocked: boolean;
  keyBlocked: boolean;
  /** The line of the same file that has registered the key; 0 when another has it, or it was in use. */
  keyTaken: number | null;
};

export type Asked = { line: number; name: string; key: string | null };

/** Of these lines, those that the fleet as it stands has something against. Keys are SHA-256 in hex. */
export async function listConflicts(db: Db, registrationId: string, asked: Asked[]): Promise<Conflict[]> {
  return executePrepared<Conflict>(
    db,
    sql`
    with asked as (
      select line, lower(name) as name, key, decode(key, 'hex') as spki
      from unnest(${sql.param(asked.map(({ line }) => line))}::int[], ${sql.param(asked.map(({ name }) => name))}::text[],
        ${sql.param(asked.map(({ key }) => key))}::text[]) as a (line, name, key)
    ), judged as (
      select a.line,
        case when d.id is null then null when n.registration_id = ${registrationId}::uuid then n.line else 0 end as "nameTaken",
        exists (select from blocks b where b.kind = 'device' and b.subject = a.name) as "nameBlocked",
        a.key is not null and exists (select from blocks b where b.kind = 'key' and b.subject = a.key) as "keyBlocked",
        case when a.key is null then null
          when k.device_id is not null then case when k.registration_id = ${registrationId}::uuid then k.line else 0 end
          when exists (select from certificates c where c.spki_sha256 = a.spki
              and (c.state <> 'REVOKED' or c.activated_at is not null))
            or exists (select from authorities i where i.spki_sha256 = a.spki) then 0 end as "keyTaken"
      from asked a
      left join devices d on lower(d.name) = a.name
      left join registered_devices n on n.device_id = d.id
      left join registered_devices k on k.spki_sha256 = a.spki
    )
    select * from judged where "nameTaken" is not null or "nameBlocked" or "keyBlocked" or "keyTaken" is not null`,
  );
}

export type NewDevice = {
  id: string;
  auditId: string;
  line: number;
  name: string;
  attributes: Record<string, string>;
  key: string | null;
};

/** Devices with their keys and audit entries, in one statement. Fails when a name or key was taken since it was looked for. */
export async function insertDevices(
  db: Db,
  { id, createdBy }: Pick<RegistrationRow, 'id' | 'createdBy'>,
  devices: NewDevice[],
): Promise<void> {
  if (devices.length === 0) return;
  const column = (read: (device: NewDevice) => unknown) => sql`${sql.param(devices.map(read))}`;
  await executePrepared(
    db,
    sql`
    with given as materialized (
      select * from unnest(${column((d) => d.id)}::uuid[], ${column((d) => d.auditId)}::uuid[], ${column((d) => d.line)}::int[],
        ${column((d) => d.name)}::text[], ${column((d) => JSON.stringify(d.attributes))}::text[], ${column((d) => d.key)}::text[])
        as g (id, audit_id, line, name, attributes, key)
    ), inserted as (
      insert into devices (id, name, state, attributes) select id, name, 'REGISTERED', attributes::jsonb from given
    ), kept as (
      insert into registered_devices (device_id, registration_id, line, spki_sha256)
      select id, ${id}::uuid, line, decode(key, 'hex') from given
    )
    insert into audit (id, actor, action, subject, data)
    select audit_id, ${createdBy}::text, 'device.registered', 'device/' || name,
      jsonb_build_object('registrationId', ${id}::text, 'line', line)
    from given`,
  );
}

export type NewCertificate = {
  /** SHA-256 of the DER in hex: the certificate's id here, too. */
  fingerprint: string;
  deviceId: string;
  name: string;
  authorityId: string;
  serial: string;
  key: string;
  pem: string;
  notBefore: Date;
  notAfter: Date;
};

/** Certificates that came from elsewhere: the first connection makes each active. */
export async function insertForeignCertificates(db: Db, rows: NewCertificate[]): Promise<void> {
  if (rows.length === 0) return;
  const column = (read: (row: NewCertificate) => unknown) => sql`${sql.param(rows.map(read))}`;
  await executePrepared(
    db,
    sql`
    insert into certificates (id, kind, device_id, subject, authority_id, serial, fingerprint, spki_sha256, pem, state,
      not_before, not_after)
    select fingerprint, 'device', device_id, name, authority_id, serial, decode(fingerprint, 'hex'), decode(key, 'hex'), pem,
      'PENDING_ACTIVATION', not_before::timestamptz, not_after::timestamptz
    from unnest(${column((r) => r.fingerprint)}::text[], ${column((r) => r.deviceId)}::uuid[], ${column((r) => r.name)}::text[],
      ${column((r) => r.authorityId)}::uuid[], ${column((r) => r.serial)}::text[], ${column((r) => r.key)}::text[],
      ${column((r) => r.pem)}::text[], ${column((r) => r.notBefore.toISOString())}::text[],
      ${column((r) => r.notAfter.toISOString())}::text[])
      as r (fingerprint, device_id, name, authority_id, serial, key, pem, not_before, not_after)`,
  );
}

export async function insertMembers(db: Db, members: { deviceId: string; groupId: string }[]): Promise<void> {
  if (members.length === 0) return;
  await executePrepared(
    db,
    sql`
    insert into group_members (group_id, device_id)
    select g.id, m.device_id
    from unnest(${sql.param(members.map(({ groupId }) => groupId))}::uuid[],
      ${sql.param(members.map(({ deviceId }) => deviceId))}::uuid[]) as m (group_id, device_id)
    join groups g on g.id = m.group_id
    on conflict do nothing`,
  );
}

export type NewFault = { line: number; name: string | null; code: string; detail: string };

export async function insertFaults(db: Db, registrationId: string, faults: NewFault[]): Promise<void> {
  if (faults.length === 0) return;
  const column = (read: (fault: NewFault) => unknown) => sql`${sql.param(faults.map(read))}`;
  await executePrepared(
    db,
    sql`
    insert into registration_faults (registration_id, line, name, code, detail)
    select ${registrationId}::uuid, line, name, code, detail
    from unnest(${column((f) => f.line)}::int[], ${column((f) => f.name)}::text[], ${column((f) => f.code)}::text[],
      ${column((f) => f.detail)}::text[]) as f (line, name, code, detail)`,
  );
}

/** How far it was read, with what came of it: in the transaction of just that. */
export async function advanceRegistration(
  db: Db,
  id: string,
  { offset, line, registered, refused }: { offset: number; line: number; registered: number; refused: number },
): Promise<void> {
  await db
    .update(registrations)
    .set({
      state: 'RUNNING',
      byteOffset: offset,
      line,
      registered: sql`${registrations.registered} + ${registered}`,
      refused: sql`${registrations.refused} + ${refused}`,
    })
    .where(eq(registrations.id, id));
}
