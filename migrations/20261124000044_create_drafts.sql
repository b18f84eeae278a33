-- Forms that people looked at and have not sent yet, and the pages of theirs that are kept up to date.

create table draft (
    key        text primary key,
    login      text not null,
    body       jsonb not null,
    created_at timestamptz not null default now()
);
create index draft_created on draft (created_at);

-- A person's page on a platform: shown again when something was recorded since.
create table home (
    platform  text not null,
    -- The platform's user.
    person    text not null,
    login     text not null,
    opened_at timestamptz not null default now(),
    -- The newest row of the audit that it shows.
    shown     bigint not null default -1,
    -- What it shows, so that the same is not sent again.
    digest    bytea,
    due_at    timestamptz not null default now(),
    attempts  integer not null default 0,
    last_error text,
    primary key (platform, person)
);
create index home_due on home (platform, due_at);
