-- Who is signed in to the console, and who tries too often.

create table session (
    -- SHA-256 of the cookie: a copy of this table opens nothing.
    token_hash bytea primary key check (length(token_hash) = 32),
    login      text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
create index session_expires on session (expires_at);

create table login_attempt (
    -- `login:<SHA-256>` or `addr:<address>`.
    key           text primary key,
    failures      integer not null,
    last_at       timestamptz not null default now(),
    blocked_until timestamptz not null default '-infinity'
);
create index login_attempt_last on login_attempt (last_at);
