-- Lets a notice wait from when what it tells is committed: that a batch is stopped is said when nothing can
-- be sent any more that was allowed before, and acts are allowed until the stop is committed.
alter table outbox add column held_for interval;
comment on column outbox.held_for is
    'How long it is held back once it is committed; null: it is not, or that time counts already (due_at).';
create index outbox_held on outbox (id) where held_for is not null;
