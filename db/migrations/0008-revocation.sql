-- The number of the revocation list that first told of it; null while none has, and of a certificate that is not revoked.
alter table certificates add column list_number bigint;
-- what the next list has to tell of
create index certificates_unlisted on certificates (authority_id) where state = 'REVOKED' and list_number is null;
-- the entries of a list: what ended longer than an hour ago is not among them
create index certificates_revoked on certificates (authority_id, not_after) where state = 'REVOKED';
-- who is hit when an authority ends: POST /authorities/{id}/retire, GET /authorities/{id}/devices
create index certificates_living on certificates (authority_id, device_id) where state <> 'REVOKED' and device_id is not null;
-- has a revoked certificate a session left?
create index sessions_certificate on sessions (certificate_id);

-- The list of revoked certificates (RFC 5280 5) as it is published: the latest of each authority.
create table revocation_lists (
  authority_id uuid primary key references authorities (id),
  number bigint not null,
  der bytea not null,
  entries integer not null,
  published_at timestamptz(3) not null,
  next_update timestamptz(3) not null
);

-- A revocation that somebody asked for, with what its lifecycle measured.
create table revocations (
  certificate_id text primary key references certificates (id),
  reason text not null,
  asked_by text not null,
  asked_at timestamptz(3) not null default now(),
  -- its entry on the feed that the gateways follow
  feed_id bigint not null,
  finished_at timestamptz(3)
);
-- what to start again when Temporal's store is lost
create index revocations_open on revocations (certificate_id) where finished_at is null;

-- A gateway that has looked at an entry of the feed, and closed what it held of it.
create table feed_receipts (
  feed_id bigint not null references feed (id) on delete cascade,
  gateway_id uuid not null,
  closed integer not null,
  at timestamptz(3) not null,
  primary key (feed_id, gateway_id)
);

-- RETIRED issues no more. REVOKED neither, and its root lists it. What it has issued stays good until it is replaced.
alter table authorities drop constraint authorities_state_check;
alter table authorities add constraint authorities_state_check check (state in ('ACTIVE', 'RETIRED', 'REVOKED'));
-- One root; of those that issue, the next may stand beside the last. Of two first starts at once, the root's row lets one win.
drop index authorities_active;
create unique index authorities_active on authorities (kind) where state = 'ACTIVE' and kind = 'root';
alter table authorities add column ended_at timestamptz(3);
alter table authorities add column revocation_reason text;

-- That an authority ends in so many months was told.
create table authority_warnings (
  authority_id uuid not null references authorities (id),
  months integer not null,
  at timestamptz(3) not null default now(),
  primary key (authority_id, months)
);

-- What is left of a decommissioned device is its name, blocked for good.
alter table devices add column decommissioned_at timestamptz(3);
alter table devices add constraint devices_decommissioned_blocked check (decommissioned_at is null or state = 'BLOCKED');

create table decommissions (
  device_id uuid primary key references devices (id),
  asked_by text not null,
  asked_at timestamptz(3) not null default now(),
  feed_id bigint not null,
  finished_at timestamptz(3)
);
create index decommissions_open on decommissions (device_id) where finished_at is null;
