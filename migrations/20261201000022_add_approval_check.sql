-- Lets an approval be looked at again when it is used, and be taken back until work begins.
alter table batch
    add column approval_checked_at   timestamptz,
    add column approval_checked_wave integer,
    add column approval_lost_at      timestamptz,
    add column approval_round        integer not null default 0;
comment on column batch.approval_checked_at is
    'When directory and inventory were last asked whether its approval stands, and said yes; null: '
    'never.';
comment on column batch.approval_checked_wave is
    'Index of the wave for whose hosts that holds; null: it must be asked before further hosts '
    'start.';
comment on column batch.approval_lost_at is
    'When it was paused since its approval does not stand any more: a new approval resumes it. '
    'Null: it stands, or the batch waits for one.';
comment on column batch.approval_round is
    'How often it has waited for approval again. Its notices are named after it.';
comment on column job.owner is
    'With datacenter, rack, sku and the BMC: what the inventory said when the batch was asked for. '
    'The owner follows the inventory whenever the approval is looked at, until the job begins.';

create index batch_to_notify_approvers_again on batch (id)
    where state = 'paused' and approval_lost_at is not null and approvers_notified_at is null;
