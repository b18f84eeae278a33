-- The console's own channels. Every change raises `rev` and is announced by NOTIFY room.

create table room_message (
    id         bigint generated always as identity primary key,
    rev        bigint not null default 1,
    channel    text not null,
    -- The message at the head of the thread.
    thread     bigint references room_message (id),
    author     text not null,
    bot        boolean not null,
    -- Plain text of a person; Markdown of the bot.
    body       text not null,
    card       jsonb,
    only_to    text,
    -- Names the message, so that it cannot be posted twice.
    key        text not null unique,
    created_at timestamptz not null default now(),
    edited_at  timestamptz,
    check (bot or card is null)
);
create index room_message_head on room_message (channel, id) where thread is null;
create index room_message_reply on room_message (thread, id) where thread is not null;

create table room_reaction (
    message    bigint not null references room_message (id),
    person     text not null,
    name       text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (message, name, person)
);
