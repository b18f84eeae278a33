-- Lets every process say which background tasks have had no round for long.
alter table task_lease add column last_round_at timestamptz;
comment on column task_lease.last_round_at is
    'When a round last succeeded, or was seen going on, give or take 10 s; null: never.';
