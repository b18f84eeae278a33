-- Hosts that were turned off on purpose are down too, and count for the caps.
comment on column job.maybe_down is
    'It left its host down, or may have: it failed in the middle, or was to turn the host off. The '
    'host counts for the caps until a job leaves it on, a check sees it on, or somebody releases it.';
