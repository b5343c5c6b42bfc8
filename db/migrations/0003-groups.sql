create table groups (
  id uuid primary key,
  name text collate "C" not null,
  -- an RSQL filter over devices; null: its members are listed
  filter text,
  description text not null default '',
  created_at timestamptz(3) not null default now(),
  updated_at timestamptz(3) not null default now()
);
-- a name is taken whatever its case; GET /groups pages by it
create unique index groups_name on groups (lower(name));

create table group_members (
  group_id uuid not null references groups (id) on delete cascade,
  device_id uuid not null,
  added_at timestamptz(3) not null default now(),
  primary key (group_id, device_id)
);
-- the groups of a device; GET /devices?filter=group==…
create index group_members_device on group_members (device_id, group_id);

-- The static groups that a dynamic group's filter names: none of them is deleted under it.
create table group_references (
  group_id uuid not null references groups (id) on delete cascade,
  named_id uuid not null references groups (id),
  primary key (group_id, named_id)
);
-- may this group be deleted?
create index group_references_named on group_references (named_id);

-- What a device says that it runs, by product (a package, in AWS's words). Written when it changes, not with every report.
create table device_software (
  device_id uuid not null,
  product text not null,
  version text not null,
  reported_at timestamptz(3) not null default now(),
  primary key (device_id, product)
) with (fillfactor = 90);
-- GET /devices?filter=version.<product>==…; by byte order a prefix, as in `1.2.*`, is a range
create index device_software_version on device_software (product, version text_pattern_ops, device_id);

-- The version of a device's reserved shadow that carries its software: never back, also when there is nothing in it.
create table software_revisions (
  device_id uuid primary key,
  revision bigint not null default 1
) with (fillfactor = 80);
