-- A ticket is for one cause: hosts of any number of batches, in any Jira. It is there before Jira
-- has it, and is a projection like a card: written again while shown < version.
alter table ticket
    alter column jira_key drop not null,
    alter column url drop not null,
    -- Where it goes and with what fields (domain::triage::Target), and the rule that said so.
    add column target         jsonb,
    add column rule           text,
    -- Equal for failures of one kind (ticket::signature), and what their hosts have in common.
    add column signature      text,
    add column shared         jsonb,
    add column last_failed_at timestamptz not null default now(),
    -- Work for Jira.
    add column version        bigint not null default 1,
    add column shown          bigint not null default 1,
    add column due_at         timestamptz not null default now(),
    add column attempts       integer not null default 0,
    add column last_error     text,
    -- Jira refuses it; it is tried again from time to time.
    add column refused_at     timestamptz,
    -- A create was sent and its outcome was never seen.
    add column create_sent_at timestamptz,
    -- What Jira did not take of it.
    add column left_out       text,
    -- Logins of people concerned whom Jira does not know.
    add column untagged       text[] not null default '{}',
    add column move_to        text check (move_to in ('open', 'closed')),
    -- The last comment's facts: an equal one is not made.
    add column last_comment   text,
    -- What Jira says.
    add column status         text,
    add column resolution     text,
    add column assignee       text,
    add column ended          text check (ended in ('done', 'declined', 'gone')),
    add column ended_at       timestamptz,
    add column looked_at      timestamptz not null default '-infinity';
create index ticket_signature on ticket (signature, id desc);
create index ticket_work on ticket (due_at)
    where jira_key is null or shown < version or move_to is not null;
create index ticket_look on ticket (looked_at) where jira_key is not null;

-- The hosts of a ticket, each as it failed in one batch.
create table ticket_host (
    ticket_id  bigint not null references ticket (id),
    job_id     bigint not null references job (id),
    batch_id   bigint not null references batch (id),
    -- A step's `run` and title, or the name of a check (domain::triage::Source).
    source     jsonb not null,
    error_kind text not null,
    error      text not null,
    -- The same action has succeeded on the host since.
    mended_at  timestamptz,
    primary key (ticket_id, job_id)
);
create index ticket_host_batch on ticket_host (batch_id);
create index ticket_host_hurt on ticket_host (job_id) where mended_at is null;

-- Comments in the order in which they are to be made.
create table ticket_comment (
    id         bigint generated always as identity primary key,
    ticket_id  bigint not null references ticket (id),
    body       jsonb not null,
    created_at timestamptz not null default now(),
    -- It was sent, and its outcome was never seen.
    tried_at   timestamptz,
    sent_at    timestamptz
);
create index ticket_comment_waiting on ticket_comment (ticket_id, id) where sent_at is null;

-- Hosts whose ticket was closed as not to be mended.
create table host_mark (
    host      text primary key,
    ticket_id bigint not null references ticket (id),
    marked_at timestamptz not null default now()
);
