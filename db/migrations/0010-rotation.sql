-- From when on a certificate is to be replaced: at two thirds of its life, give or take a twentieth by a hash of its device,
-- so that a batch from one day at the factory is spread over weeks, and each device has its own place in every round.
create function certificate_due(not_before timestamptz, not_after timestamptz, device_id uuid)
returns timestamptz immutable strict parallel safe language sql as $$
  select ((not_before at time zone 'utc') + (not_after - not_before)
    * (2.0 / 3 + (hashtextextended(device_id::text, 0) % 10001) / 200000.0)::float8) at time zone 'utc'
$$;
-- what is due: rotateExpiring; and what is past 80 % of its life
create index certificates_due on certificates (certificate_due(not_before, not_after, device_id), id)
  where state = 'ACTIVE' and device_id is not null;

-- Who rotates when, and how many at once. A policy is for the devices of the template of its name; `default` for all others.
create table rotation_policies (
  name text primary key,
  paused boolean not null default false,
  -- how much sooner than at its usual point a certificate is due
  earlier_days integer not null default 0 check (earlier_days between 0 and 3650),
  every_minutes integer not null default 60 check (every_minutes between 1 and 1440),
  per_minute integer not null default 60 check (per_minute between 1 and 10000),
  at_once integer not null default 500 check (at_once between 1 and 10000),
  prove_within_hours integer not null default 168 check (prove_within_hours between 1 and 2160),
  grace_hours integer not null default 24 check (grace_hours between 0 and 2160),
  -- whether a device may ask by itself before its certificate is due
  any_time boolean not null default false,
  updated_at timestamptz(3) not null default now()
);
insert into rotation_policies (name) values ('default');

-- The replacement of a device's certificate by another. Its order is a job with the same id.
create table rotations (
  id uuid primary key,
  device_id uuid not null,
  -- what is replaced, and by what
  certificate_id text not null,
  new_certificate_id text,
  policy text not null,
  reason text not null check (reason in ('due', 'authority', 'requested', 'renewal')),
  asked_by text not null,
  state text not null check (state in ('BEGUN', 'ORDERED', 'ISSUED', 'PROVEN', 'ROTATED', 'REFUSED', 'UNANSWERED',
    'NEVER_USED', 'ENDED')),
  -- which try it is for this certificate
  attempt integer not null,
  begun_at timestamptz(3) not null default now(),
  issued_at timestamptz(3),
  proven_at timestamptz(3),
  finished_at timestamptz(3),
  -- after a try that failed, the next is not begun before
  again_at timestamptz(3)
) with (fillfactor = 80);
-- a device has one at a time
create unique index rotations_open on rotations (device_id) where finished_at is null;
-- the tries of a device, the last first
create index rotations_device on rotations (device_id, id desc);
-- the proof: the first connection with the new certificate
create index rotations_issued on rotations (new_certificate_id) where state = 'ISSUED';
-- how many are under way
create index rotations_policy on rotations (policy, state) where finished_at is null;

-- That a certificate is past 80 % of its life, and not replaced, was told.
create table certificate_warnings (
  certificate_id text primary key references certificates (id),
  at timestamptz(3) not null default now()
);

-- The order of a rotation is a job that belongs to no rollout.
alter table jobs alter column rollout_id drop not null;
