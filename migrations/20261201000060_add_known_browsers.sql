-- Sign-ins are slowed down by the pair of login and address, and browsers that signed in before pass;
-- sessions end when the password that opened them changes.

alter table session add column password_digest bytea;
comment on column session.password_digest is
    'SHA-256 of the password''s hash in the directory when the session was opened; null: not known.';

create table known_browser (
    token_hash bytea primary key
        constraint known_browser_token_hash_is_sha256 check (length(token_hash) = 32),
    login      text not null,
    used_at    timestamptz not null default now()
);
comment on table known_browser is
    'Browsers in which somebody has signed in: what others try does not slow them down.';
comment on column known_browser.token_hash is
    'SHA-256 of the cookie: a copy of this table opens nothing.';

create index known_browser_by_use on known_browser (used_at);

comment on table login_attempt is
    'Sign-ins that failed, counted by who tried; an hour of quiet forgets them.';
comment on column login_attempt.key is
    '`pair:<SHA-256 of login and address>`, `login:<SHA-256>`, `addr:<address>` or `browser:<SHA-256>`.';
