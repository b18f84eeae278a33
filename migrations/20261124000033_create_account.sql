-- What a platform says about its users, for as long as it is believed. `email` is only there when
-- the platform has verified it and vouches for the user as one of its own.

create table account (
    platform   text not null,
    user_id    text not null,
    email      text,
    checked_at timestamptz not null default now(),
    primary key (platform, user_id)
);
