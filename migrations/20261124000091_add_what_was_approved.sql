-- What a batch was approved with, so that nothing that changes meanwhile is acted on.

alter table job
    -- Where the host's BMC was when it was asked for; null before this was kept.
    add column bmc_address text,
    add column bmc_credentials text;

-- Somebody went on although hosts had failed before.
alter table batch add column unhealthy_excused boolean not null default false;

-- Whether something was, or may have been, done to the host; null before this was kept.
alter table attempt add column acted boolean;

-- It failed in the middle, and its host may be down since: it counts for the caps until the host has
-- succeeded at something, or somebody lets it go.
alter table job add column left_down boolean not null default false;
create index job_left_down on job (host) where left_down;
