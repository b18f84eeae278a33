-- Messages on their way to a platform that cannot recognise a key of ours. A row without a message
-- is a post whose outcome is not known: the platform is asked before it is posted again.

create table posting (
    platform   text not null,
    key        text not null,
    message_id text,
    started_at timestamptz not null default now(),
    primary key (platform, key)
);
