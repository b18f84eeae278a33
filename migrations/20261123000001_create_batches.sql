-- The durable heart: batches, their jobs, what was tried, who decided.

create table batch (
    id             bigint generated always as identity primary key,
    action         text not null,
    risk           text not null check (risk in ('harmless', 'disruptive', 'destructive')),
    plan           jsonb not null,
    digest         bytea not null check (octet_length(digest) = 32),
    submitter      text not null,
    reason         text,
    state          text not null check (state in (
                       'checking', 'awaiting_approval', 'scheduled', 'running', 'paused',
                       'succeeded', 'partly_failed', 'failed',
                       'refused', 'rejected', 'expired', 'cancelled')),
    state_reason   text,
    -- One entry per owner group: who may approve its hosts and how many must.
    requirements   jsonb not null,
    -- Where it was asked for; the card and its thread live there.
    platform       text not null,
    channel        text not null,
    retry_of       bigint references batch (id),
    wave           integer not null default 0,
    -- Something changed since the conductor last looked.
    attention      boolean not null default true,
    -- What keeps hosts from starting although it is their turn.
    kept_by        text,
    -- Failures that an operator has accepted by resuming.
    failures_excused integer not null default 0,
    created_at     timestamptz not null default now(),
    expires_at     timestamptz,
    started_at     timestamptz,
    finished_at    timestamptz
);
create index batch_attention on batch (id)
    where (attention or kept_by is not null) and state in ('scheduled', 'running', 'paused', 'cancelled');
create index batch_overdue on batch (expires_at) where state = 'awaiting_approval';
create index batch_submitter on batch (submitter, id desc);

create table job (
    id          bigint generated always as identity primary key,
    batch_id    bigint not null references batch (id),
    host        text not null,
    owner       text not null,
    datacenter  text not null,
    rack        text not null,
    sku         text not null,
    wave        integer not null,
    state       text not null check (state in (
                    'held', 'queued', 'running', 'succeeded', 'failed',
                    'quarantined', 'cancelled', 'skipped')),
    step        integer not null default 0,
    epoch       bigint not null default 0,
    worker      text,
    lease_until timestamptz,
    error_kind  text,
    error       text,
    started_at  timestamptz,
    ended_at    timestamptz
);
-- The database itself cannot hold an overlap (domain::job::JobState::holds_claim).
create unique index job_claim on job (host)
    where state in ('held', 'queued', 'running', 'quarantined');
create index job_batch on job (batch_id, state);
create index job_host on job (host, id desc);
create index job_queued on job (id) where state = 'queued';
create index job_leased on job (lease_until) where state = 'running';

create table attempt (
    id         bigint generated always as identity primary key,
    job_id     bigint not null references job (id),
    step       integer not null,
    try        integer not null,
    epoch      bigint not null,
    worker     text not null,
    intent_at  timestamptz not null default now(),
    outcome    text check (outcome in ('succeeded', 'failed', 'unknown')),
    outcome_at timestamptz,
    error_kind text,
    error      text
);
create index attempt_job on attempt (job_id, id);
-- At most one act of a job is under way.
create unique index attempt_open on attempt (job_id) where outcome is null;

create table decision (
    id           bigint generated always as identity primary key,
    batch_id     bigint not null references batch (id),
    digest       bytea not null,
    person       text not null,
    verdict      text not null check (verdict in ('approve', 'reject')),
    -- Owner groups whose part it counted for when it was given.
    owners       text[] not null,
    via          text not null,
    reason       text,
    decided_at   timestamptz not null default now(),
    withdrawn_at timestamptz
);
create unique index decision_once on decision (batch_id, digest, person) where withdrawn_at is null;
