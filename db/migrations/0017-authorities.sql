-- STANDBY: certified, and in the trust bundle. It issues from the moment on when it takes over.
alter table authorities drop constraint authorities_state_check;
alter table authorities add constraint authorities_state_check check (state in ('STANDBY', 'ACTIVE', 'RETIRED', 'REVOKED'));
-- Two roots may be trusted at a time, the last and the next. First starts take turns by a lock of the table.
drop index authorities_active;

-- A key that waits for a root to certify it. With the certificate it becomes an authority of the same id.
create table authority_requests (
  id uuid primary key,
  name text not null,
  csr_pem text not null,
  spki_sha256 bytea not null,
  encrypted_key bytea,
  signer text not null check (signer in ('database', 'pkcs11')),
  signer_key text,
  created_at timestamptz(3) not null default now(),
  constraint authority_requests_signer_key check
    ((signer = 'database') = (signer_key is null) and (signer = 'database') = (encrypted_key is not null))
);

-- What devices anchor their trust on: the roots. Each set of them is a version.
create table trust_bundles (
  version integer primary key,
  certificates_pem text not null,
  sha256 bytea not null,
  -- the order to take it; the first is what devices came with
  job_id uuid,
  created_at timestamptz(3) not null default now()
);

-- One authority takes over from the others.
create table rollovers (
  authority_id uuid primary key references authorities (id),
  asked_by text not null,
  asked_at timestamptz(3) not null default now(),
  -- from when on nobody is waited for who has not acknowledged the root
  acknowledge_by timestamptz(3) not null,
  switched_at timestamptz(3),
  finished_at timestamptz(3)
);
-- what to start again when Temporal's store is lost
create index rollovers_open on rollovers (authority_id) where finished_at is null;
