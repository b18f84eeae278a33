-- Whether a platform shows what Metalbot says at a place, for as long as it is believed. `closed` is
-- what has to be done first, for people; null where it is shown.

create table place (
    platform   text not null,
    channel    text not null,
    closed     text,
    checked_at timestamptz not null default now(),
    primary key (platform, channel)
);
