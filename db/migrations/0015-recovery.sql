-- Whether a device may come back on a certificate that ended while it was away: for how long after, and whether an operator
-- has to approve of each. Nobody may unless a policy says so.
alter table rotation_policies
  add column recover_within_days integer not null default 0 check (recover_within_days between 0 and 365),
  add column recovery_approval boolean not null default true;

alter table rotations drop constraint rotations_reason_check;
alter table rotations add constraint rotations_reason_check
  check (reason in ('due', 'authority', 'requested', 'renewal', 'recovery'));

-- That a device has asked to come back on a certificate that has ended, and what became of it: one for each certificate.
create table recoveries (
  certificate_id text primary key references certificates (id),
  device_id uuid not null,
  -- the new key: what is granted is granted to it alone
  spki_sha256 bytea not null,
  policy text not null,
  state text not null check (state in ('WAITING', 'GRANTED', 'DENIED')),
  asked_at timestamptz(3) not null default now(),
  decided_by text,
  decided_at timestamptz(3)
);
-- how many ask in a minute
create index recoveries_policy on recoveries (policy, asked_at);
-- what waits; the list, the youngest first
create index recoveries_state on recoveries (state, asked_at desc, certificate_id);
create index recoveries_asked on recoveries (asked_at desc, certificate_id);
-- what is erased with a device
create index recoveries_device on recoveries (device_id);
