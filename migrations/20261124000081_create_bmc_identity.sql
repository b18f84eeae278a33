-- Who each BMC says it is, from the last time that it was asked and answered: a BMC that is silent
-- now still has a vendor and a firmware, and a ticket may be about these.
create table bmc_identity (
    host     text primary key,
    -- Empty when it never answered.
    vendor   text not null default '',
    firmware text not null default '',
    asked_at timestamptz not null default now()
);
