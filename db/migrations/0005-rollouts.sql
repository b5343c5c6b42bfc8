-- A job over many devices, in waves.
create table rollouts (
  id uuid primary key,
  name text not null,
  state text not null check (state in ('CREATING', 'WAITING_FOR_APPROVAL', 'APPROVAL_DENIED', 'READY', 'SCHEDULED',
    'RUNNING', 'PAUSED', 'STOPPING', 'STOPPED', 'FINISHED', 'UNDOING', 'UNDONE')),
  -- why it is paused, stopped or undone, in a word: `gate`, `operator`, `limit`, `deadline`, `release-revoked`
  reason text,
  -- verdicts that stood when an operator let it go on: limits count what came after
  forgiven jsonb not null default '{}',
  -- the wave that devices are admitted from; 0 before the first
  wave integer not null default 0,
  -- everything that was asked, as the API checked it, and its SHA-256: an approval is of this and of nothing else
  plan jsonb not null,
  plan_hash bytea not null,
  revision integer not null default 1,
  job_id uuid not null,
  release_id uuid,
  priority smallint not null default 0,
  targets integer not null default 0,
  -- what is left of the current minute's share, and when that minute began
  rate_left integer not null default 0,
  rate_at timestamptz(3) not null default 'epoch',
  -- when devices that came to match since were last looked for
  enlisted_at timestamptz(3),
  starts_at timestamptz(3),
  deadline_at timestamptz(3),
  -- when those that go back were found
  sent_back_at timestamptz(3),
  created_by text not null,
  created_at timestamptz(3) not null default now(),
  approved_by text,
  approved_at timestamptz(3),
  started_at timestamptz(3),
  finished_at timestamptz(3),
  updated_at timestamptz(3) not null default now()
) with (fillfactor = 70);
-- what to start again when Temporal's store is lost
create index rollouts_open on rollouts (id) where finished_at is null;
-- GET /rollouts?filter=state==…
create index rollouts_state on rollouts (state, id);
-- rollouts of a release, for its revocation
create index rollouts_release on rollouts (release_id) where release_id is not null;

-- A part of the targets that goes before the next. Its counters are of devices, not of attempts, and only the rollout's
-- lifecycle writes them.
create table waves (
  rollout_id uuid not null references rollouts (id),
  number integer not null check (number > 0),
  state text not null check (state in ('WAITING', 'RUNNING', 'SOAKING', 'PASSED', 'FAILED')),
  targets integer not null default 0,
  -- verdict → devices
  verdicts jsonb not null default '{}',
  -- of those that go back
  undo_targets integer not null default 0,
  undo_verdicts jsonb not null default '{}',
  opened_at timestamptz(3),
  soaks_until timestamptz(3),
  -- an operator has let it pass
  passed_by text,
  ended_at timestamptz(3),
  primary key (rollout_id, number)
) with (fillfactor = 70);

-- One device of a rollout, with where it stands and how it ended.
create table rollout_targets (
  rollout_id uuid not null,
  device_id uuid not null,
  wave integer not null,
  -- a stable hash: the order within the wave
  place bigint not null,
  -- going back is the way a device goes when its rollout is undone
  direction text not null default 'FORWARD' check (direction in ('FORWARD', 'BACK')),
  state text not null check (state in ('SCHEDULED', 'IN_FLIGHT', 'RETRYING', 'DONE')),
  job_id uuid,
  attempt integer not null default 0,
  retry_at timestamptz(3),
  told_at timestamptz(3),
  verdict text check (verdict in
    ('SUCCEEDED', 'FAILED', 'TIMED_OUT', 'REJECTED', 'CANCELED', 'REMOVED', 'SKIPPED', 'REVERTED', 'SILENT')),
  -- in words
  reason text,
  judged_at timestamptz(3),
  -- what it ran when it was told: the way back
  previous_version text,
  -- how going back ended: UNDONE, CANNOT_UNDO, or a verdict of an execution
  undo_verdict text,
  primary key (rollout_id, device_id)
) partition by range (rollout_id);
-- whom to tell next
create index rollout_targets_scheduled on rollout_targets (rollout_id, wave, place) where state = 'SCHEDULED';
-- whom to judge
create index rollout_targets_in_flight on rollout_targets (rollout_id, device_id) where state = 'IN_FLIGHT';
create index rollout_targets_retrying on rollout_targets (rollout_id, retry_at) where state = 'RETRYING';
-- the rollouts of a device
create index rollout_targets_device on rollout_targets (device_id);

-- What a rollout decided and which sample made it, in words.
create table rollout_decisions (
  id uuid primary key,
  rollout_id uuid not null,
  kind text not null,
  words text not null,
  sample jsonb not null,
  actor text not null,
  at timestamptz(3) not null default now()
);
-- GET /rollouts/{id}/decisions
create index rollout_decisions_rollout on rollout_decisions (rollout_id, id);

select make_partitions('rollout_targets', 1, 3,
  'fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0');
