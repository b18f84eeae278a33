-- Lets each worker take only what it reaches, and says what no worker does.
alter table worker add column datacenters text[];
comment on column worker.datacenters is
    'The datacenters whose BMCs it reaches; null: all of them.';

alter table batch add column checked_datacenters text[] not null default '{}';
comment on column batch.checked_datacenters is
    'Datacenters whose hosts have been checked. A batch that spans several may be checked by several '
    'processes, each its part; the last one ends the checking.';

alter table ticket add column verified_datacenters text[] not null default '{}';
comment on column ticket.verified_datacenters is
    'Datacenters whose hosts were verified since the ticket was done, while those of others still wait.';

create table batch_unreached (
    batch_id    bigint primary key references batch (id),
    datacenters text[] not null
);
comment on table batch_unreached is
    'Batches with hosts that wait since no live worker reaches their datacenter. Written by the task '
    'placement.';

-- A lease takes the next jobs of each running batch here, and what is due here, however much waits
-- elsewhere.
create index job_queued_by_datacenter on job (datacenter, batch_id, id) where state = 'queued';
create index job_to_wake_by_datacenter on job (datacenter, wake_at) where wake_at is not null;

create index batch_checking on batch (id) where state = 'checking';
