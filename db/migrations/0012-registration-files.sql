-- A file that registers many devices ahead of their enrolment, and how far it was read.
create table registrations (
  id uuid primary key,
  format text not null check (format in ('csv', 'ndjson')),
  -- of a CSV: what its header names
  columns text[] not null default '{}',
  state text not null check (state in ('UPLOADING', 'WAITING', 'RUNNING', 'FINISHED', 'CANCELED')),
  -- of the whole file, once it is here
  size bigint,
  sha256 bytea,
  -- Where reading goes on: the first byte that is not read, and the number of the line that it begins. Moves in the
  -- transaction of what the lines before it have done.
  byte_offset bigint not null default 0,
  line integer not null default 1,
  registered integer not null default 0,
  refused integer not null default 0,
  created_by text not null,
  created_at timestamptz(3) not null default now(),
  finished_at timestamptz(3)
) with (fillfactor = 50);
-- what to start again when Temporal's store is lost; uploads that broke off
create index registrations_open on registrations (created_at) where finished_at is null;
-- retention
create index registrations_finished on registrations (finished_at) where finished_at is not null;

-- The file, in pieces of one size but for the last, until it is read.
create table registration_chunks (
  registration_id uuid not null references registrations (id) on delete cascade,
  number integer not null,
  bytes bytea not null,
  primary key (registration_id, number)
);
-- read once: compressing would cost more than it saves
alter table registration_chunks alter column bytes set storage external;

-- Why a line registered nothing.
create table registration_faults (
  registration_id uuid not null references registrations (id) on delete cascade,
  line integer not null,
  -- null where the line has none that could be one
  name text,
  code text not null,
  detail text not null,
  primary key (registration_id, line)
);

-- Devices that a file has registered: by which of its lines, and the one key that may enrol under the name. No foreign
-- keys: the file's row goes when its time is over, and a device's row stays for good.
create table registered_devices (
  device_id uuid primary key,
  registration_id uuid not null,
  line integer not null,
  spki_sha256 bytea
);
-- a key is registered for one device
create unique index registered_devices_key on registered_devices (spki_sha256) where spki_sha256 is not null;
