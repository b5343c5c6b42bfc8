-- The lowest UUIDv7 of an instant: partition bounds and "since" conditions on ids are made with it.
create function uuid_at(instant timestamptz) returns uuid immutable strict parallel safe language sql as $$
  select (lpad(to_hex((extract(epoch from instant) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
$$;

-- A UUIDv7 of now, for rows that a set-based statement makes; a process makes its own ids.
create function uuid_now() returns uuid volatile parallel safe language sql as $$
  select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
    || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid
$$;

-- Makes the monthly partitions of a table that is range-partitioned on a UUIDv7, from last month (a process whose clock
-- is a little late still finds its partition) to `ahead` months on.
create function make_partitions(parent text, ahead integer) returns void language plpgsql as $$
declare
  month timestamptz := (date_trunc('month', now() at time zone 'utc') - interval '1 month') at time zone 'utc';
  name text;
begin
  for i in -1..ahead loop
    name := parent || '_' || to_char(month at time zone 'utc', 'YYYYMM');
    if to_regclass(name) is null then
      execute format('create table %I partition of %I for values from (%L) to (%L)',
        name, parent, uuid_at(month), uuid_at(((month at time zone 'utc') + interval '1 month') at time zone 'utc'));
    end if;
    month := ((month at time zone 'utc') + interval '1 month') at time zone 'utc';
  end loop;
end $$;

create table authorities (
  id uuid primary key,
  kind text not null check (kind in ('root', 'issuing')),
  name text not null,
  certificate_pem text not null,
  spki_sha256 bytea not null,
  encrypted_key bytea,
  parent_id uuid references authorities (id),
  state text not null check (state in ('ACTIVE', 'RETIRED')),
  not_before timestamptz(3) not null,
  not_after timestamptz(3) not null,
  created_at timestamptz(3) not null default now()
);
-- One active issuing authority and one root for now; a second start that races the first finds it taken.
create unique index authorities_active on authorities (kind) where state = 'ACTIVE';

create table templates (
  name text primary key,
  definition jsonb not null,
  version integer not null default 1,
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now()
);

create table claims (
  id uuid primary key,
  template text not null references templates (name),
  certificate_id text not null,
  uses integer not null default 0,
  uses_max integer not null check (uses_max between 1 and 1000000),
  -- A bucket of `rate_per_minute` enrolments: what is left in it, and since when.
  rate_per_minute integer not null check (rate_per_minute between 1 and 100000),
  rate_left double precision not null,
  rate_at timestamptz(3) not null default now(),
  expires_at timestamptz(3) not null,
  revoked_at timestamptz(3),
  created_at timestamptz(3) not null default now()
);
-- identity of a claim connection
create unique index claims_certificate on claims (certificate_id);
-- GET /templates deletes only templates that no claim names
create index claims_template on claims (template, id);

create table devices (
  id uuid primary key,
  -- ASCII by its rule; by byte order a prefix is a range of the index, and no locale of the machine changes the order
  name text collate "C" not null,
  template text,
  state text not null check (state in ('REGISTERED', 'ACTIVE', 'BLOCKED')),
  attributes jsonb not null default '{}',
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now()
);
-- a name is taken whatever its case; GET /devices/{name}; GET /devices pages by it
create unique index devices_name on devices (lower(name));
-- GET /devices?filter=template==…
create index devices_template on devices (template, lower(name));
-- GET /devices?filter=state==…
create index devices_state on devices (state, lower(name));
-- GET /devices?filter=attributes.…==…
create index devices_attributes on devices using gin (attributes jsonb_path_ops);

create table certificates (
  id text primary key check (id ~ '^[0-9a-f]{64}$'),
  kind text not null check (kind in ('device', 'claim', 'service')),
  device_id uuid references devices (id),
  -- the service's or the claim line's name
  subject text not null,
  authority_id uuid not null references authorities (id),
  serial text not null,
  fingerprint bytea not null,
  spki_sha256 bytea not null,
  pem text not null,
  state text not null check (state in ('PENDING_ACTIVATION', 'ACTIVE', 'REVOKED')),
  revocation_reason text,
  not_before timestamptz(3) not null,
  not_after timestamptz(3) not null,
  issued_at timestamptz(3) not null default now(),
  activated_at timestamptz(3),
  revoked_at timestamptz(3)
) with (fillfactor = 90);
-- identity of a connection
create unique index certificates_fingerprint on certificates (fingerprint);
create unique index certificates_serial on certificates (authority_id, serial);
-- one living certificate per key: a key seen on another device is refused
create unique index certificates_spki_live on certificates (spki_sha256) where state <> 'REVOKED';
create index certificates_spki on certificates (spki_sha256);
-- GET /devices/{name}/certificates
create index certificates_device on certificates (device_id, issued_at desc, id);
-- GET /certificates
create index certificates_issued on certificates (issued_at desc, id);
-- GET /certificates?filter=kind==… and ?filter=state==…
create index certificates_kind on certificates (kind, issued_at desc, id);
create index certificates_state on certificates (state, issued_at desc, id);

create table enrolments (
  id uuid primary key,
  -- hex of SHA-256 over claim id and public key, first half: the key of the workflow's id
  key text not null,
  claim_id uuid not null references claims (id),
  template text not null,
  certificate_id text not null references certificates (id),
  device_id uuid references devices (id),
  state text not null check (state in ('ISSUED', 'REGISTERED', 'ACTIVATED', 'LAPSED')),
  -- SHA-256 over template and parameters of the registration that won, and the answer it got
  registration_hash bytea,
  answer jsonb,
  closes_at timestamptz(3) not null,
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now()
);
-- the same claim and key within the hour is the same enrolment
create unique index enrolments_key on enrolments (key) where state <> 'LAPSED';
-- activation by certificate
create index enrolments_certificate on enrolments (certificate_id);
-- what to start again when Temporal's store is lost
create index enrolments_open on enrolments (closes_at) where state in ('ISSUED', 'REGISTERED');
-- a claim's enrolments
create index enrolments_claim on enrolments (claim_id, id);
-- GET /enrolments?filter=state==… and ?filter=template==…
create index enrolments_state on enrolments (state, id);
create index enrolments_template on enrolments (template, id);

create table ownership_tokens (
  hash bytea primary key,
  enrolment_id uuid not null references enrolments (id),
  -- the claim certificate whose connection was given the token
  certificate_id text not null,
  expires_at timestamptz(3) not null
);
-- retention
create index ownership_tokens_expiry on ownership_tokens (expires_at);

create table gateways (
  id uuid primary key,
  address text not null,
  started_at timestamptz(3) not null default now(),
  beat_at timestamptz(3) not null default now(),
  stopped_at timestamptz(3)
) with (fillfactor = 70);

create table sessions (
  identity text not null,
  client_id text not null,
  epoch bigint not null default 1,
  gateway_id uuid not null,
  certificate_id text not null,
  device_id uuid,
  address text,
  protocol smallint not null,
  -- filter → granted QoS, of sessions that outlive their connection
  subscriptions jsonb not null default '{}',
  -- how long the session outlives its connection; null is for ever
  expiry_seconds bigint,
  connected_at timestamptz(3) not null,
  closed_at timestamptz(3),
  reason text,
  primary key (identity, client_id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- sessions of a gateway that died
create index sessions_gateway on sessions (gateway_id);
-- does a device still have a session elsewhere?
create index sessions_device on sessions (device_id);

create table presence (
  device_id uuid primary key,
  connected boolean not null,
  client_id text not null,
  version bigint not null,
  certificate_id text not null,
  address text,
  reason text,
  changed_at timestamptz(3) not null
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- A closed session whose device may have come back by `due_at`: judged then, and gone.
create table presence_checks (
  id bigint generated always as identity primary key,
  device_id uuid not null,
  client_id text not null,
  epoch bigint not null,
  reason text not null,
  due_at timestamptz(3) not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index presence_checks_due on presence_checks (due_at);

create table commands (
  id uuid primary key,
  payload bytea not null,
  format text not null check (format in ('json', 'cbor', 'other')),
  content_type text not null,
  timeout_seconds integer not null,
  deadline_at timestamptz(3) not null,
  targets integer not null,
  created_by text not null,
  created_at timestamptz(3) not null default now(),
  canceled_at timestamptz(3),
  -- no target is open any more, or the deadline has passed
  finished_at timestamptz(3)
) with (fillfactor = 85);
-- what to start again when Temporal's store is lost
create index commands_open on commands (id) where finished_at is null;

create table command_targets (
  execution_id uuid primary key,
  command_id uuid not null,
  device_id uuid not null,
  status text not null check (status in ('CREATED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED')),
  -- who said so: a time-out by the service may still be overruled by the device's late result
  status_by text not null default 'service' check (status_by in ('service', 'device')),
  version integer not null default 1,
  reason_code text,
  reason_description text,
  result jsonb,
  delivered_at timestamptz(3),
  updated_at timestamptz(3) not null default now()
) with (fillfactor = 85);
-- GET /commands/{id}; the open ones of a command
create unique index command_targets_command on command_targets (command_id, device_id);
-- GET /commands?filter=device==…
create index command_targets_device on command_targets (device_id, command_id desc);

create table command_transitions (
  id uuid not null,
  execution_id uuid not null,
  status text not null,
  status_by text not null,
  reason_code text,
  late boolean not null default false,
  at timestamptz(3) not null default now(),
  primary key (id)
) partition by range (id);
create index command_transitions_execution on command_transitions (execution_id, id);

-- What a device must still be told. The row goes when the device has ended it, or it was taken back.
create table orders (
  device_id uuid not null,
  id uuid not null,
  kind text not null check (kind in ('command')),
  attempts integer not null default 0,
  next_attempt_at timestamptz(3) not null default now(),
  expires_at timestamptz(3) not null,
  primary key (device_id, id)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Revocations, blocks and other changes that every gateway must hear of. Read with overlap; applying one twice is harmless.
create table feed (
  id bigint generated always as identity primary key,
  kind text not null check (kind in ('certificate', 'device', 'claim')),
  subject text not null,
  created_at timestamptz(3) not null default now()
);
create index feed_created on feed (created_at);

create table outbox (
  id bigint generated always as identity primary key,
  shard smallint not null check (shard between 0 and 63),
  kind text not null check (kind in ('start', 'signal')),
  workflow_id text not null,
  -- the workflow's type, or the signal's name
  name text not null,
  argument jsonb not null,
  created_at timestamptz(3) not null default now()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index outbox_shard on outbox (shard, id);

-- The shard of a workflow id: everything for one workflow goes through one relay, in order.
create function outbox_shard(workflow_id text) returns smallint immutable strict parallel safe language sql as $$
  select (hashtext(workflow_id) & 63)::smallint
$$;

create table relay_leases (
  shard smallint primary key check (shard between 0 and 63),
  gateway_id uuid,
  leased_until timestamptz(3) not null default '-infinity'
) with (fillfactor = 70);
insert into relay_leases (shard) select generate_series(0, 63);

-- The Temporal namespace whose workflows the open rows belong to. Another id means that its store was lost.
create table temporal_store (
  only_one boolean primary key default true check (only_one),
  namespace_id text not null
);

-- What happened, for streams. Read by (xid, id) below the oldest running transaction.
create table events (
  id uuid not null,
  xid xid8 not null default pg_current_xact_id(),
  kind text not null,
  device_id uuid,
  data jsonb not null,
  at timestamptz(3) not null default now(),
  primary key (id)
) partition by range (id);
create index events_order on events (xid, id);

create table audit (
  id uuid not null,
  actor text not null,
  action text not null,
  subject text not null,
  data jsonb not null default '{}',
  at timestamptz(3) not null default now(),
  primary key (id)
) partition by range (id);
-- GET /audit?filter=subject==…
create index audit_subject on audit (subject, id);
-- GET /audit?filter=action==…
create index audit_action on audit (action, id);

-- A report that the database refused although it looked right: kept for a person to see, the device was answered.
create table quarantine (
  id uuid primary key,
  device_id uuid,
  topic text not null,
  payload bytea not null,
  error text not null,
  at timestamptz(3) not null default now()
);

create table api_keys (
  id uuid primary key,
  name text not null,
  secret_hash bytea not null,
  created_at timestamptz(3) not null default now(),
  revoked_at timestamptz(3)
);
create unique index api_keys_secret on api_keys (secret_hash);

create table idempotency_keys (
  credential uuid not null,
  route text not null,
  key text not null,
  request_hash bytea not null,
  status smallint,
  answer jsonb,
  created_at timestamptz(3) not null default now(),
  primary key (credential, route, key)
);
-- kept for 24 h
create index idempotency_keys_created on idempotency_keys (created_at);

select make_partitions(t, 3) from unnest(array['command_transitions', 'events', 'audit']) t;
