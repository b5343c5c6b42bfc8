-- A rollout is most under way before it was ever analysed. By a list of the commonest values the planner would expect one
-- target of it, whichever index it goes by, and read all of them where it wants those in flight. Without one it expects
-- the same share for every rollout, and the index that fits the question is the cheaper one.
alter table rollout_targets alter column rollout_id set statistics 0;

-- whom to judge, and what is under way: an index on those in flight alone does not serve both
drop index rollout_targets_in_flight;
create index rollout_targets_under_way on rollout_targets (rollout_id, device_id) where state in ('IN_FLIGHT', 'RETRYING');

create or replace function make_partitions(parent text, ahead integer, months integer default 1, storage text default null)
returns void language plpgsql as $$
declare
  step interval := make_interval(months => months);
  first timestamp := date_trunc('month', now() at time zone 'utc') - interval '1 month';
  start timestamp := make_date(extract(year from first)::integer,
    ((extract(month from first)::integer - 1) / months) * months + 1, 1);
  name text;
  unanalysed text;
begin
  while start <= (now() at time zone 'utc') + ahead * step loop
    name := parent || '_' || to_char(start, 'YYYYMM');
    if to_regclass(name) is null then
      execute format('create table %I partition of %I for values from (%L) to (%L) %s', name, parent,
        uuid_at(start at time zone 'utc'), uuid_at((start + step) at time zone 'utc'), 'with (' || storage || ')');
      for unanalysed in select attname from pg_attribute where attrelid = parent::regclass and attstattarget = 0 loop
        execute format('alter table %I alter column %I set statistics 0', name, unanalysed);
      end loop;
    end if;
    start := start + step;
  end loop;
end $$;
