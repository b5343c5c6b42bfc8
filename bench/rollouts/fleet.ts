import { sql } from 'drizzle-orm';
import type { Database } from '../../db/client.ts';

/** Devices as if they had enrolled, from `first` to before `end`, by set-based statements: keys that nobody ever uses. */
export async function makeCrowd(
  db: Database,
  { prefix, first, end }: { prefix: string; first: number; end: number },
): Promise<void> {
  await db.execute(sql`
    with made as (
      insert into devices (id, name, state, attributes)
      select uuid_now(), ${prefix}::text || n, 'ACTIVE', jsonb_build_object('crowd', ${prefix}::text, 'half', case n % 2 when 0 then 'even' else 'odd' end)
      from generate_series(${first}::int, ${end - 1}::int) n
      returning id, name
    )
    insert into certificates
      (id, kind, device_id, subject, authority_id, serial, fingerprint, spki_sha256, pem, state, not_before, not_after)
    select encode(sha256(('id' || d.name)::bytea), 'hex'), 'device', d.id, d.name, a.id, d.name,
      sha256(d.name::bytea), sha256(('key' || d.name)::bytea), '', 'ACTIVE', now(), now() + interval '90 days'
    from made d cross join authorities a where a.kind = 'issuing'`);
  await db.execute(sql`analyze devices, certificates`);
}

/** Devices that have been here once and are away. */
export async function makeAbsent(db: Database, prefix: string): Promise<void> {
  await db.execute(sql`
    insert into presence (device_id, connected, client_id, version, certificate_id, changed_at)
    select id, false, name, 1, encode(sha256(('id' || name)::bytea), 'hex'), now()
    from devices where attributes @> jsonb_build_object('crowd', ${prefix}::text)`);
  await db.execute(sql`analyze presence`);
}

export async function deleteCrowd(db: Database, prefix: string): Promise<void> {
  const chosen = sql`(select id from devices where attributes @> jsonb_build_object('crowd', ${prefix}::text))`;
  await db.execute(sql`delete from presence where device_id in ${chosen}`);
  await db.execute(sql`delete from certificates where device_id in ${chosen}`);
  await db.execute(sql`delete from devices where attributes @> jsonb_build_object('crowd', ${prefix}::text)`);
  for (const table of ['presence', 'certificates', 'devices']) await db.$client.unsafe(`vacuum analyze ${table}`);
}
