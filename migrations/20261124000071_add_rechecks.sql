alter table ticket
    -- It is done: its hosts are to be looked at, and people to be told what was found.
    add column recheck_at timestamptz,
    -- Accounts that watch it because we said so.
    add column watchers   text[] not null default '{}';
create index ticket_recheck on ticket (recheck_at) where recheck_at is not null;
