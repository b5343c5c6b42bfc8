-- The public halves of the keys that sign orders: what one device is to install now. The private halves are in a file of
-- the gateways.
create table order_keys (
  -- RFC 7638 thumbprint of the public key: `kid` of the orders
  id text primary key,
  public_key_pem text not null,
  -- SIGNING signs; STANDBY is in the file too, and will sign or did; RETIRED was taken out of it
  state text not null check (state in ('SIGNING', 'STANDBY', 'RETIRED')),
  created_at timestamptz(3) not null default now(),
  retired_at timestamptz(3)
);

-- the release that the document is of: each execution of it comes with an order; null of any other document
alter table jobs add column release_id uuid;
-- rollouts that run get orders from now on, too: on the way forward, and on the way back
update jobs j set release_id = o.release_id from rollouts o where o.job_id = j.id and o.release_id is not null;
update jobs j set release_id = r.id from rollouts o, releases r
where o.id = j.rollout_id and o.job_id <> j.id
  and r.manifest = case when o.release_id is not null then j.document::json ->> 'manifest' end;
-- the rollouts that bring a release, or go back to it, for its revocation
create index jobs_release on jobs (release_id) where release_id is not null;
