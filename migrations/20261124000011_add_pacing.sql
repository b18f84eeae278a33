-- What a batch waits for by the clock, and what its budget counts.

alter table batch
    -- While it is scheduled: when it starts. While it runs: when the open wave may begin.
    add column waits_until timestamptz,
    -- How often it was paused: a button offers to go on from one pause, not from a later one.
    add column pauses integer not null default 0;
create index batch_due on batch (waits_until)
    where waits_until is not null and state in ('scheduled', 'running');

-- The host had failed in the batch before this one, and its turn has not come yet.
alter table job add column unhealthy boolean not null default false;
