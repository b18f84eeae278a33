-- What came in, what must go out, and what people see of it.

create table inbox (
    id          bigint generated always as identity primary key,
    platform    text not null,
    -- One sender's deliveries are worked on in the order in which they came.
    sender      text not null,
    delivery    text not null,
    body        jsonb not null,
    received_at timestamptz not null default now(),
    due_at      timestamptz not null default now(),
    done_at     timestamptz,
    attempts    integer not null default 0,
    last_error  text,
    unique (platform, delivery)
);
create index inbox_due on inbox (id) where done_at is null;
create index inbox_sender on inbox (platform, sender, id) where done_at is null;

create table outbox (
    id         bigint generated always as identity primary key,
    kind       text not null check (kind in ('notice', 'ticket')),
    -- Names the thing that is sent, so that the other side can recognise a repeat.
    key        text not null unique,
    batch_id   bigint references batch (id),
    audience   jsonb,
    body       jsonb not null,
    created_at timestamptz not null default now(),
    due_at     timestamptz not null default now(),
    attempts   integer not null default 0,
    last_error text,
    sent_at    timestamptz,
    -- The other side will never take it: an operator can see it, nobody waits for it.
    refused_at timestamptz
);
create index outbox_due on outbox (kind, id) where sent_at is null and refused_at is null;

-- The batch's message in chat: a projection of the batch, shown again while shown < version.
create table card (
    batch_id   bigint primary key references batch (id),
    message_id text,
    version    bigint not null default 1,
    shown      bigint not null default 0,
    due_at     timestamptz not null default now(),
    attempts   integer not null default 0,
    last_error text,
    -- The platform will never show it.
    refused_at timestamptz
);
create index card_dirty on card (due_at) where shown < version and refused_at is null;
create index card_message on card (message_id);

create table ticket (
    id          bigint generated always as identity primary key,
    fingerprint text not null unique,
    batch_id    bigint not null references batch (id),
    error_kind  text not null,
    jira_key    text not null,
    url         text not null,
    hosts       jsonb not null,
    created_at  timestamptz not null default now()
);
create index ticket_batch on ticket (batch_id);

-- One row per background task: which process runs it now.
create table task (
    name        text primary key,
    owner       text,
    epoch       bigint not null default 0,
    lease_until timestamptz not null default '-infinity'
);
