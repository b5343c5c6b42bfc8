-- Where the key of an authority is kept, and what it is called there: in `encrypted_key`, or in a token, by its label.
alter table authorities
  add column signer text not null default 'database' check (signer in ('database', 'pkcs11')),
  add column signer_key text,
  add constraint authorities_signer_key check ((signer = 'database') = (signer_key is null));
