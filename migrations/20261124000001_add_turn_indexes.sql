-- A lease takes the next jobs of each running batch, however many more are queued.
create index batch_running on batch (id) where state = 'running';
create index job_turn on job (batch_id, id) where state = 'queued';
drop index job_queued;
