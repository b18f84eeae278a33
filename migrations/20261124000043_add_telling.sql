-- What was told already of a batch's course, so that it is told once.

alter table batch
    -- Its approvers were called, and reminded before the approval expires.
    add column called_at timestamptz,
    add column reminded_at timestamptz,
    -- Notices about failures so far, and the earliest time of the next.
    add column failures_told integer not null default 0,
    add column failures_due_at timestamptz not null default '-infinity';
-- Those that wait now were asked in their cards.
update batch set called_at = now() where state = 'awaiting_approval';
create index batch_uncalled on batch (id)
    where state = 'awaiting_approval' and reminded_at is null;
create index batch_at_work on batch (id) where state in ('running', 'paused');

alter table job
    -- Its failure was told in the thread.
    add column failure_told boolean not null default false;
