-- One row a worker instead of a lease on each job; jobs that wait without a worker.

create table worker (
    name    text primary key,
    beat_at timestamptz not null default now()
);
comment on table worker is
    'The processes that work on jobs. A row whose time is long past is deleted by any other worker, '
    'and its jobs are taken over.';
comment on column worker.name is 'As job.worker, and unique to each start of a process.';
comment on column worker.beat_at is 'When it last said that it is there.';

drop index job_leased;
alter table job
    drop column lease_until,
    add column fence bigint not null default 0,
    add column takeovers integer not null default 0,
    add column step_began_at timestamptz,
    add column wake_at timestamptz,
    add column acts_skipped boolean not null default false,
    drop constraint job_state_is_known,
    add constraint job_state_is_known check (state in (
        'pending', 'queued', 'running', 'waiting', 'succeeded', 'failed',
        'quarantined', 'cancelled', 'skipped')),
    add constraint job_waits_for_something check ((state = 'waiting') = (wake_at is not null));
comment on table job is
    'One host of a batch. A row whose state is pending, queued, running, waiting or quarantined is '
    'the claim on its host.';
comment on column job.state is
    'Pending: its turn has not come. Queued: a worker may take it. Waiting: nobody works on it until '
    'wake_at. Skipped: taken out of the batch. Only domain::job says which changes there are.';
comment on column job.worker is
    'Who works on it; null on a running job: its worker is gone, and another one may take it over.';
comment on column job.fence is
    'Drawn for each lease beside its epoch: a database that lost its last commits gives an epoch twice.';
comment on column job.takeovers is
    'How often it was taken over from a worker that was gone since it last came forward.';
comment on column job.step_began_at is
    'When the step to do next was first taken up; its deadline counts from here, whoever works on it. '
    'Null: nobody has taken it up.';
comment on column job.wake_at is 'Until when a waiting job waits; null on all others.';

comment on column job.acts_skipped is
    'Acts of its plan were left out because the batch was cancelled; its host was brought to a safe end.';

alter table batch add column begun_at timestamptz;
update batch set begun_at = started_at
where exists (select from job join attempt on job_id = job.id where batch_id = batch.id);
comment on column batch.begun_at is
    'When the first intent of an act on one of its hosts was written; null: nothing was done yet, and its '
    'approval can be taken back.';

drop index job_exclusive_claim;
create unique index job_exclusive_claim on job (host)
    where state in ('pending', 'queued', 'running', 'waiting', 'quarantined');
create index job_by_worker on job (worker) where state = 'running' and worker is not null;
create index job_without_worker on job (id) where state = 'running' and worker is null;
create index job_to_wake on job (wake_at) where state = 'waiting';

-- An attempt is written with its outcome where nothing was to be sent, and before the act where
-- something was.
alter table attempt drop constraint attempt_outcome_is_complete;
update attempt set acted = true where acted is null;
alter table attempt
    alter column acted set default true,
    alter column acted set not null,
    add constraint attempt_outcome_is_complete check ((outcome is null) = (outcome_at is null));
comment on column attempt.acted is
    'Whether the host was, or may have been, touched by this attempt: true from the intent on, until '
    'it is known that nothing was sent.';
