-- What any replica saw a moment ago and must not act on again: replayed requests, double clicks.

create table seen (
    key     text primary key,
    seen_at timestamptz not null default now()
);
create index seen_seen_at on seen (seen_at);
