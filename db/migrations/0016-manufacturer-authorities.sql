-- Authorities of manufacturers, whose devices enrol by the certificates that they were made with. They stand apart from
-- `authorities`: no device is ever told to trust one.
create table manufacturer_authorities (
  id uuid primary key,
  name text not null,
  -- what its devices enrol under: the template, the budget, the rate
  claim_id uuid not null references claims (id),
  subject text not null,
  certificate_pem text not null,
  fingerprint bytea not null,
  spki_sha256 bytea not null,
  state text not null check (state in ('ACTIVE', 'RETIRED')),
  not_before timestamptz(3) not null,
  not_after timestamptz(3) not null,
  created_by text not null,
  created_at timestamptz(3) not null default now(),
  retired_at timestamptz(3)
);
-- registered once at a time
create unique index manufacturer_authorities_active on manufacturer_authorities (fingerprint) where state = 'ACTIVE';
-- whose devices an enrolment is of
create unique index manufacturer_authorities_claim on manufacturer_authorities (claim_id);
-- whether a key is still trusted, by whatever certificate
create index manufacturer_authorities_key on manufacturer_authorities (spki_sha256) where state = 'ACTIVE';

-- Codes that an authority's key signs once, to show that whoever registers it has that key.
create table manufacturer_codes (
  code text primary key,
  created_by text not null,
  expires_at timestamptz(3) not null
);

-- A certificate is of an authority of ours, or was adopted under a manufacturer's.
alter table certificates
  alter column authority_id drop not null,
  add column manufacturer_authority_id uuid references manufacturer_authorities (id),
  add constraint certificates_issuer check (num_nonnulls(authority_id, manufacturer_authority_id) = 1);
-- who lives under a manufacturer's authority; whose certificates are to be replaced when it is retired
create index certificates_adopted on certificates (manufacturer_authority_id, device_id)
  where manufacturer_authority_id is not null and state <> 'REVOKED' and device_id is not null;

-- The certificate (PEM) that becomes the device's, in place of one that is issued.
alter table enrolments add column adopts text;
