-- A platform may deliver a reaction after its removal. What was taken away stays known with its
-- time, so that what is older brings nothing back; and one that is older than the plan is not for it.

alter table card_reaction
    add column standing   boolean not null default true,
    add column changed_at timestamptz not null default now();

alter table batch add column plan_changed_at timestamptz;
