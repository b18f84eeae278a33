-- Lets releases side by side leave each other's plans alone: none drops what it does not know.
alter table batch add column plan_version integer not null default 1;
comment on column batch.plan_version is
    'Version of the plan (domain::workflow::PLAN_VERSION). A process takes up only batches whose '
    'plans it understands.';
