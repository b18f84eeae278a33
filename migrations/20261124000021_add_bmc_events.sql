-- What the BMC's own log said when the job failed, newest last; null when it was not or could not
-- be read.
alter table job add column bmc_events text[];
