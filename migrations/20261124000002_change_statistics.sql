-- What the planner would learn of these columns holds for a moment only: that no job is at work, say,
-- and then it visits every job that is, once for each row that is written. Without statistics it
-- supposes a few in a thousand, and that serves at any time.
alter table job alter column state set statistics 0;
alter table job alter column lease_until set statistics 0;
alter table attempt alter column outcome set statistics 0;
