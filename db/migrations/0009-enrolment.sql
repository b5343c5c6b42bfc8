-- What permits an enrolment: the certificate of a factory line, a token, or a manufacturer's authority that vouches for
-- its devices. The last is told by the certificates of its devices, and has none of its own here.
alter table claims
  add column kind text not null default 'certificate' check (kind in ('certificate', 'token', 'manufacturer')),
  alter column certificate_id drop not null,
  -- SHA-256 of the token's secret
  add column token_hash bytea,
  -- in lower case; null is any device that the template names
  add column device_names text[],
  -- SHA-256 of the one public key that may enrol with it
  add column spki_sha256 bytea,
  add constraint claims_credential check ((kind = 'certificate') = (certificate_id is not null)
    and (kind = 'token') = (token_hash is not null));

-- Wrong tokens, counted by the network that they came from and by the claim that they named. A window that is over is
-- begun again by the next wrong one.
create table claim_failures (
  subject text primary key,
  failures integer not null,
  since timestamptz(3) not null default now()
) with (fillfactor = 80);
-- retention
create index claim_failures_since on claim_failures (since);

alter table enrolments
  drop constraint enrolments_state_check,
  add constraint enrolments_state_check
    check (state in ('ISSUED', 'WAITING_FOR_APPROVAL', 'REGISTERED', 'ACTIVATED', 'LAPSED', 'DENIED')),
  -- one that waits for an operator before there is a certificate has none
  alter column certificate_id drop not null,
  -- SubjectPublicKeyInfo, DER; rows from before it have it in their certificate
  add column public_key bytea,
  -- what certificates said of the device: its manufacturer's, and the request for this one
  add column evidence jsonb not null default '{}',
  -- of a door that asks for certificate and registration in one step: template and parameters
  add column asked jsonb,
  -- what the device is to become, while an operator has yet to say so
  add column registration jsonb,
  add column waits_for text check (waits_for in ('approval', 'device-exists')),
  add column approved_by text,
  add column approved_at timestamptz(3),
  -- the device's other certificates are to be revoked once it has connected with this one
  add column supersedes boolean not null default false;
drop index enrolments_key;
-- the same claim and key within the hour is the same enrolment
create unique index enrolments_key on enrolments (key) where state not in ('LAPSED', 'DENIED');
drop index enrolments_open;
-- what to start again when Temporal's store is lost
create index enrolments_open on enrolments (closes_at)
  where state in ('ISSUED', 'WAITING_FOR_APPROVAL', 'REGISTERED') or supersedes;
-- a key that was denied within its time
create index enrolments_denied on enrolments (key, closes_at) where state = 'DENIED';

-- The secret that signs what is asked of a template's hook, sealed.
create table template_hooks (
  template text primary key references templates (name) on delete cascade,
  sealed_secret bytea not null,
  created_at timestamptz(3) not null default now()
);

-- What a hook has answered, so that the same enrolment is asked about once, whatever crashes in between.
create table hook_answers (
  key text primary key,
  template text not null,
  allow boolean not null,
  parameters jsonb not null default '{}',
  answered_at timestamptz(3) not null default now()
);
-- retention
create index hook_answers_answered on hook_answers (answered_at);

-- Devices, by name in lower case, and keys, by SHA-256 in hex, that may not enrol, whatever permits it. No foreign key: a
-- block outlives the device.
create table blocks (
  kind text not null check (kind in ('device', 'key')),
  subject text not null,
  -- the name that it was blocked with, in lower case
  device text not null,
  reason text,
  actor text not null,
  created_at timestamptz(3) not null default now(),
  primary key (kind, subject)
);
-- a device is let in again with its keys
create index blocks_device on blocks (device);
insert into blocks (kind, subject, device, actor)
  select 'device', lower(name), lower(name), 'system/migration' from devices where state = 'BLOCKED'
  union all
  select distinct on (c.spki_sha256) 'key', encode(c.spki_sha256, 'hex'), lower(d.name), 'system/migration'
  from devices d join certificates c on c.device_id = d.id where d.state = 'BLOCKED';
