-- Makes the partitions of a table that is range-partitioned on a UUIDv7, each over `months` months and with the given
-- storage settings: from the one of last month (a process whose clock is a little late still finds its partition) to
-- `ahead` on from now.
drop function make_partitions(text, integer);
create function make_partitions(parent text, ahead integer, months integer default 1, storage text default null)
returns void language plpgsql as $$
declare
  step interval := make_interval(months => months);
  first timestamp := date_trunc('month', now() at time zone 'utc') - interval '1 month';
  start timestamp := make_date(extract(year from first)::integer,
    ((extract(month from first)::integer - 1) / months) * months + 1, 1);
  name text;
begin
  while start <= (now() at time zone 'utc') + ahead * step loop
    name := parent || '_' || to_char(start, 'YYYYMM');
    if to_regclass(name) is null then
      execute format('create table %I partition of %I for values from (%L) to (%L) %s', name, parent,
        uuid_at(start at time zone 'utc'), uuid_at((start + step) at time zone 'utc'), 'with (' || storage || ')');
    end if;
    start := start + step;
  end loop;
end $$;

-- A document to execute. Each belongs to one rollout; going back adds one for every release gone back to.
create table jobs (
  id uuid primary key,
  rollout_id uuid not null,
  -- as it was given, byte by byte; `${longhaul:url:<sha256>}` in it becomes a signed address when a device asks
  document text not null,
  -- how long an execution may wait to be started, and how long it may take once it is; null is for ever
  start_within_seconds integer,
  end_within_seconds integer,
  created_at timestamptz(3) not null default now()
);
-- the jobs of a rollout
create index jobs_rollout on jobs (rollout_id);

-- One device's copy of a job. A retry is another row, with the next attempt.
create table executions (
  job_id uuid not null,
  device_id uuid not null,
  attempt integer not null,
  status text not null check
    (status in ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED', 'REMOVED')),
  details jsonb not null default '{}',
  version integer not null default 1,
  -- the higher one is offered first
  priority smallint not null default 0,
  queued_at timestamptz(3) not null default now(),
  started_at timestamptz(3),
  updated_at timestamptz(3) not null default now(),
  -- by when it must be started, or once it is, must have ended
  due_at timestamptz(3),
  step_due_at timestamptz(3),
  ended_at timestamptz(3),
  -- the request that made this version, by its SHA-256: the same again gets the same answer
  last_request bytea,
  primary key (job_id, device_id, attempt)
) partition by range (job_id);
-- what a device has to do: GetPendingJobExecutions, StartNextPendingJobExecution, $next
create index executions_pending on executions (device_id, queued_at) where ended_at is null;

-- A device whose list of pending executions has changed since it was last told. The row goes when it has acknowledged.
create table job_notices (
  device_id uuid primary key,
  -- which change this is: an acknowledgement of an older one does not end it
  change uuid not null default uuid_now(),
  -- whether an execution has come or gone, and whether the first of them is another one
  list boolean not null,
  head boolean not null,
  attempts integer not null default 0,
  next_attempt_at timestamptz(3) not null default now()
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- What a stream of events is about: `rollout/<id>`, `job/<id>`.
alter table events add column subject text;
create index events_subject on events (subject, xid, id) where subject is not null;

select make_partitions('executions', 1, 3,
  'fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0');
