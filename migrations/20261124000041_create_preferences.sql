-- What people want to be told, what is told in which channel, and which reactions stand on cards.

create table preference (
    login     text primary key,
    complete  text not null check (complete in ('dm', 'thread', 'off')),
    failures  text not null check (failures in ('dm', 'thread', 'off')),
    waves     text not null check (waves in ('dm', 'thread', 'off')),
    approvals text not null check (approvals in ('dm', 'thread', 'off')),
    -- Whether many direct messages at once may become one.
    digest    boolean not null
);
create index preference_approvals on preference (login) where approvals = 'dm';

create table channel_setting (
    platform  text not null,
    channel   text not null,
    -- Actions whose course is told in full; null: all.
    actions   text[] check (cardinality(actions) > 0),
    verbosity text not null check (verbosity in ('all', 'failures', 'summary')),
    primary key (platform, channel)
);

-- Reactions that count as decisions: who has several on a card may take one away.
create table card_reaction (
    batch_id bigint not null references batch (id),
    person   text not null,
    name     text not null,
    primary key (batch_id, person, name)
);
