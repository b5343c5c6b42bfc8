-- Content that devices download, by the SHA-256 of its bytes. The bytes stand in the store, not here.
create table artifacts (
  sha256 bytea primary key check (length(sha256) = 32),
  size bigint not null check (size >= 0),
  created_by text not null,
  created_at timestamptz(3) not null default now()
);
-- GET /artifacts
create index artifacts_created on artifacts (created_at desc, sha256);

-- Keys that sign manifests. The private halves are not ours to have.
create table release_keys (
  -- RFC 7638 thumbprint of the public key: `kid` of the manifests
  id text primary key,
  name text not null,
  algorithm text not null check (algorithm in ('ES256', 'EdDSA')),
  public_key_pem text not null,
  -- what it may sign for; null is anything
  products text[],
  created_by text not null,
  created_at timestamptz(3) not null default now(),
  revoked_at timestamptz(3),
  revocation_reason text
);

-- An artifact with the signed word about what it is good for. Never changed.
create table releases (
  id uuid primary key,
  product text not null,
  version text not null,
  security_counter bigint not null check (security_counter between 0 and 9007199254740991),
  -- the JWS in its compact form, as it was given
  manifest text not null,
  key_id text not null references release_keys (id),
  artifact bytea not null references artifacts (sha256),
  artifact_name text not null,
  hardware text[] not null,
  -- versions from which it may be installed; null is any
  allowed_from text[],
  -- signed as a way to a lower counter
  downgrade boolean not null default false,
  expires_at timestamptz(3) not null,
  created_by text not null,
  created_at timestamptz(3) not null default now(),
  revoked_at timestamptz(3),
  revocation_reason text
);
-- a version says which release it is: the one a device reports
create unique index releases_version on releases (product, version) where revoked_at is null;
-- the highest counter of a product
create index releases_counter on releases (product, security_counter desc);
-- an artifact's releases; GET /releases?filter=artifact==…
create index releases_artifact on releases (artifact);
create index releases_key on releases (key_id);
