import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { executePrepared } from './prepared.ts';

export type SessionOpening = {
  /** Of this connection; the sessions of a claim certificate are told apart by it. */
  connectionId: string;
  /** SHA-256 of the certificate's DER, hex. */
  fingerprint: string;
  clientId: string;
  protocol: 4 | 5;
  cleanStart: boolean;
  /** How long the session outlives its connection. */
  expirySeconds: number;
  address: string;
  /** Ids of the rows that the opening may write to `events` and `audit`, so that repeating it writes them once. */
  eventId: string;
  auditId: string;
};

/** How the workflow of an enrolment, or of a rotation, is told of the first connection with its certificate. */
export type ConnectedSignal = { name: string; workflowIdPrefix: string; rotationIdPrefix: string };

export type OpenSessions = {
  gatewayId: string;
  sessionsPerIdentityMax: number;
  signal: ConnectedSignal;
  openings: SessionOpening[];
};

export type SessionRefusal =
  | 'UnknownCertificate'
  | 'CertificateRevoked'
  | 'CertificateExpired'
  | 'CertificateNotActive'
  | 'AuthorityRetired'
  | 'DeviceNotRegistered'
  | 'DeviceBlocked'
  | 'ClaimUnknown'
  | 'ClaimRevoked'
  | 'ClaimExpired'
  | 'TooManySessions'
  /** Another connection of the same batch took the session, or the same certificate was activated by another gateway. */
  | 'Displaced';

export type SessionOpened = {
  refusal: SessionRefusal | null;
  /** Null when no certificate of ours has that fingerprint. */
  kind: 'device' | 'claim' | 'service' | null;
  certificateId: string;
  notAfterMs: number;
  subject: string;
  deviceId: string | null;
  deviceName: string | null;
  claimId: string | null;
  template: string | null;
  identity: string;
  epoch: number;
  subscriptions: Record<string, 0 | 1>;
  /** The certificate was used for the first time. */
  activated: boolean;
  /** The gateway that held the session until now, when it is another one. */
  previousGatewayId: string | null;
};

/**
 * Why a certificate may not be used, as an expression over `c` (certificates), `d` (devices) and `cl` (claims); null
 * when it may. The one place that says so: for connections, and for those that a revocation closes.
 */
export const refusalOfCertificate = sql`case
  when c.id is null then 'UnknownCertificate'
  when c.state = 'REVOKED' then 'CertificateRevoked'
  when now() not between c.not_before and c.not_after then 'CertificateExpired'
  when c.manufacturer_authority_id is not null and not exists (
    select from manufacturer_authorities m join manufacturer_authorities a on a.spki_sha256 = m.spki_sha256
    where m.id = c.manufacturer_authority_id and a.state = 'ACTIVE') then 'AuthorityRetired'
  when c.kind = 'device' and d.id is null then 'DeviceNotRegistered'
  when d.state = 'BLOCKED' then 'DeviceBlocked'
  when c.kind <> 'device' and c.state <> 'ACTIVE' then 'CertificateNotActive'
  when c.kind = 'claim' and cl.id is null then 'ClaimUnknown'
  when cl.revoked_at is not null then 'ClaimRevoked'
  when cl.expires_at <= now() then 'ClaimExpired'
end`;

/**
 * Opens sessions, in one statement: finds the identity by its certificate, refuses or admits it, activates a certificate
 * on its first use (with audit entry and the signal to its enrolment), takes the session over with a higher epoch, and
 * flips presence. One result for each opening, in their order. Epochs are microseconds, and never less than one more
 * than the last: they order the sessions of a device whatever their client ids, also after rows were deleted.
 */
export async function openSessions(db: Db, { openings, ...rest }: OpenSessions): Promise<SessionOpened[]> {
  const { gatewayId, sessionsPerIdentityMax, signal } = rest;
  const asked = JSON.stringify(openings.map((opening, n) => ({ n, ...opening })));
  return executePrepared<SessionOpened>(
    db,
    sql`
    with asked as materialized (
      select * from json_to_recordset(${asked}::text::json) as a (
        n int, "connectionId" text, fingerprint text, "clientId" text, protocol smallint, "cleanStart" boolean,
        "expirySeconds" bigint, address text, "eventId" uuid, "auditId" uuid)
    ), known as materialized (
      select a.*, c.id as certificate_id, c.kind, c.state, c.not_after, c.subject, d.id as device_id, d.name as device_name,
        cl.id as claim_id, cl.template, ${refusalOfCertificate} as refusal,
        c.kind || '/' || case c.kind when 'device' then c.device_id::text when 'service' then c.id
          else c.id || '/' || a."connectionId" end as identity
      from asked a
      left join certificates c on c.fingerprint = decode(a.fingerprint, 'hex')
      left join devices d on d.id = c.device_id
      left join claims cl on c.kind = 'claim' and cl.certificate_id = c.id
    ), crowded as (
      select k.n from known k
      where k.refusal is null and ${sessionsPerIdentityMax} <= (
        select count(*) from sessions s
        where s.identity = k.identity and s.client_id <> k."clientId"
          and (s.closed_at is null or s.closed_at + make_interval(secs => s.expiry_seconds) > now()))
    ), activated as (
      update certificates c set state = 'ACTIVE', activated_at = now()
      from (select distinct certificate_id from known where refusal is null and state = 'PENDING_ACTIVATION') k
      where c.id = k.certificate_id and c.state = 'PENDING_ACTIVATION'
      returning c.id
    ), admitted as materialized (
      select distinct on (k.identity, k."clientId") k.*
      from known k
      where k.refusal is null and k.n not in (select n from crowded)
        and (k.state = 'ACTIVE' or k.certificate_id in (select id from activated))
      order by k.identity, k."clientId", k.n desc
    ), previous as (
      select s.identity, s.client_id, s.gateway_id
      from sessions s join admitted a on s.identity = a.identity and s.client_id = a."clientId"
      where s.closed_at is null and s.gateway_id <> ${gatewayId}::uuid
    ), opened as (
      insert into sessions as s (identity, client_id, epoch, gateway_id, certificate_id, device_id, address, protocol,
        expiry_seconds, connected_at)
      select identity, "clientId", (extract(epoch from clock_timestamp()) * 1000000)::bigint, ${gatewayId}::uuid,
        certificate_id, device_id, address, protocol, "expirySeconds", now()
      from admitted order by identity, "clientId"
      on conflict (identity, client_id) do update set
        epoch = greatest(s.epoch + 1, excluded.epoch), gateway_id = excluded.gateway_id,
        certificate_id = excluded.certificate_id, device_id = excluded.device_id, address = excluded.address,
        protocol = excluded.protocol, expiry_seconds = excluded.expiry_seconds, connected_at = excluded.connected_at,
        closed_at = null, reason = null,
        subscriptions = case
          when (select a."cleanStart" from admitted a where a.identity = s.identity and a."clientId" = s.client_id)
            or s.expiry_seconds = 0 or s.closed_at + make_interval(secs => s.expiry_seconds) < now() then '{}'
          else s.subscriptions end
      returning s.identity, s.client_id, s.epoch, s.subscriptions
    ), admissions as materialized (
      select a.*, o.epoch, o.subscriptions from admitted a
      join opened o on o.identity = a.identity and o.client_id = a."clientId"
    ), flipped as (
      insert into presence as p (device_id, connected, client_id, version, certificate_id, address, changed_at)
      select distinct on (device_id) device_id, true, "clientId", epoch, certificate_id, address, now()
      from admissions where device_id is not null order by device_id, epoch desc
      on conflict (device_id) do update set connected = true, client_id = excluded.client_id,
        version = greatest(p.version + 1, excluded.version), certificate_id = excluded.certificate_id,
        address = excluded.address, reason = null,
        changed_at = case when p.connected then p.changed_at else excluded.changed_at end
    ), told as (
      insert into events (id, kind, device_id, data)
      select "eventId", 'device.connected', device_id, jsonb_build_object('clientId', "clientId", 'version', epoch,
        'certificateId', certificate_id, 'address', address)
      from admissions where device_id is not null
      on conflict (id) do nothing
    ), enrolled as (
      update enrolments e set state = 'ACTIVATED', updated_at = now()
      from activated where e.certificate_id = activated.id and e.state = 'REGISTERED'
      returning e.certificate_id, ${signal.workflowIdPrefix}::text || e.key as workflow_id
    ), rotated as (
      update rotations r set state = 'PROVEN', proven_at = now()
      from activated where r.new_certificate_id = activated.id and r.state = 'ISSUED'
      returning r.new_certificate_id as certificate_id, ${signal.rotationIdPrefix}::text || (
        select d.name from devices d where d.id = r.device_id) as workflow_id
    ), signalled as (
      insert into outbox (shard, kind, workflow_id, name, argument)
      select distinct outbox_shard(workflow_id), 'signal', workflow_id, ${signal.name}::text,
        jsonb_build_object('certificateId', e.certificate_id, 'deviceName', k.device_name)
      from (select * from enrolled union all select * from rotated) e join known k on k.certificate_id = e.certificate_id
    ), in_service as (
      update devices d set state = 'ACTIVE', updated_at = now()
      from (select distinct device_id from known where certificate_id in (select id from activated)) k
      where d.id = k.device_id and d.state = 'REGISTERED'
    ), recorded as (
      insert into audit (id, actor, action, subject, data)
      select distinct on (certificate_id) "auditId", 'device/' || device_name, 'certificate.activated',
        'certificate/' || certificate_id, jsonb_build_object('device', device_name)
      from known where certificate_id in (select id from activated)
    )
    select coalesce(k.refusal, case when k.n in (select n from crowded) then 'TooManySessions'
        when a.n is null then 'Displaced' end) as refusal,
      k.kind, k.certificate_id as "certificateId", (extract(epoch from k.not_after) * 1000)::float8 as "notAfterMs",
      k.subject, k.device_id as "deviceId", k.device_name as "deviceName", k.claim_id as "claimId", k.template,
      k.identity, a.epoch::float8 as epoch, a.subscriptions, p.gateway_id as "previousGatewayId",
      k.certificate_id in (select id from activated) as activated
    from known k
    left join admissions a on a.n = k.n
    left join previous p on p.identity = a.identity and p.client_id = a."clientId"
    order by k.n`,
  );
}
