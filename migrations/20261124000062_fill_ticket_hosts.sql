-- The tickets that were filed before, one for each kind of failure of a batch.
insert into ticket_host (ticket_id, job_id, batch_id, source, error_kind, error)
select ticket.id, job.id, batch.id,
    jsonb_build_object('step', jsonb_build_object(
        'run', coalesce(batch.plan #>> array['steps', job.step::text, 'action', 'run'], ''),
        'title', coalesce(batch.plan #>> array['steps', job.step::text, 'title'], ''))),
    ticket.error_kind, coalesce(job.error, '')
from ticket
join batch on batch.id = ticket.batch_id
join job on job.batch_id = batch.id and job.error_kind = ticket.error_kind
    and job.state in ('failed', 'quarantined');
update ticket set last_failed_at = created_at;
