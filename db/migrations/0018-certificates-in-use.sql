-- how many devices live, at each look of a rollover: read of the index alone, in the devices' order
create index certificates_in_use on certificates (device_id, not_after) where state <> 'REVOKED' and device_id is not null;
