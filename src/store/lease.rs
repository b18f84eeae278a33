//! Leases: a worker's expiring right to a job. Each lease has a higher epoch than the one before,
//! and nothing that carries an older epoch is written.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgPool;

use super::task::interval;
use super::{audit, corrupt};
use crate::domain::host::HostName;
use crate::domain::ids::{BatchId, Epoch, JobId};
use crate::domain::principal::Actor;

/// A job that this worker may work on until the lease ends.
#[derive(Clone, Debug)]
pub struct Leased {
    pub job: JobId,
    pub batch: BatchId,
    pub host: HostName,
    pub epoch: Epoch,
    /// Index of the step to do next.
    pub step: usize,
    /// Tries of that step that are in the journal.
    pub tries: u32,
    /// An attempt whose worker wrote the intent and never the outcome.
    pub open_attempt: Option<i64>,
}

/// Leases up to `at_most` jobs: running ones whose worker's lease ran out, then queued ones of
/// running batches, one of each batch in turn, so that a huge batch does not starve a small one.
pub async fn take(
    pool: &PgPool,
    worker: &str,
    at_most: usize,
    lease: Duration,
) -> sqlx::Result<Vec<Leased>> {
    let mut tx = pool.begin().await?;
    let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"with expired as (
               select id from job where state = 'running' and lease_until < now()
               order by lease_until limit $2 for update skip locked),
           turns as (
               select job.id, row_number() over (partition by job.batch_id order by job.id) as turn
               from job join batch on batch.id = job.batch_id
               where job.state = 'queued' and batch.state = 'running'),
           ready as (
               select job.id from job join turns on turns.id = job.id
               where job.state = 'queued'
               order by turns.turn, job.id limit $2 for update of job skip locked),
           picked as (
               select id, true as takeover from expired union all
               select id, false from ready limit $2)
           update job set state = 'running', worker = $1, epoch = epoch + 1,
               lease_until = now() + $3, started_at = coalesce(started_at, now())
           from picked where job.id = picked.id
           returning job.id, job.batch_id, job.host, job.epoch, job.step,
               picked.takeover as "takeover!""#,
        worker,
        limit,
        interval(lease)
    )
    .fetch_all(&mut *tx)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let tried: HashMap<i64, (i64, Option<i64>)> = sqlx::query!(
        r#"select attempt.job_id, count(*) filter (where attempt.step = job.step) as "tries!",
                  max(attempt.id) filter (where attempt.outcome is null) as open
           from attempt join job on job.id = attempt.job_id
           where attempt.job_id = any($1) group by attempt.job_id"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?
    .into_iter()
    .map(|row| (row.job_id, (row.tries, row.open)))
    .collect();
    let actor = Actor { who: "metalbot".into(), via: worker.to_owned() };
    let detail = |host: &str, epoch: i64| serde_json::json!({ "host": host, "epoch": epoch });
    let taken_over: Vec<_> = rows
        .iter()
        .filter(|row| row.takeover)
        .map(|row| (BatchId(row.batch_id), detail(&row.host, row.epoch)))
        .collect();
    audit::record_many(&mut tx, &actor, "job.taken_over", &taken_over).await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            let (tries, open_attempt) = tried.get(&row.id).copied().unwrap_or((0, None));
            Ok(Leased {
                job: JobId(row.id),
                batch: BatchId(row.batch_id),
                host: row.host.parse().map_err(corrupt)?,
                epoch: Epoch(row.epoch),
                step: usize::try_from(row.step).map_err(corrupt)?,
                tries: u32::try_from(tries).unwrap_or(u32::MAX),
                open_attempt,
            })
        })
        .collect()
}

/// Extends all leases that this worker still has, in one statement; returns those that stand.
/// A job that is missing from the answer is another worker's by now.
pub async fn heartbeat(
    pool: &PgPool,
    worker: &str,
    jobs: &[(JobId, Epoch)],
    lease: Duration,
) -> sqlx::Result<Vec<JobId>> {
    let ids: Vec<i64> = jobs.iter().map(|(job, _)| job.0).collect();
    let epochs: Vec<i64> = jobs.iter().map(|(_, epoch)| epoch.0).collect();
    let kept = sqlx::query_scalar!(
        // Whoever locks several jobs locks them in the order of their numbers.
        "with standing as (
             select job.id from job
             join unnest($2::bigint[], $3::bigint[]) as mine (id, epoch)
               on job.id = mine.id and job.epoch = mine.epoch
             where job.worker = $1 and job.state = 'running' and job.lease_until >= now()
             order by job.id for update of job)
         update job set lease_until = now() + $4
         from standing where job.id = standing.id
         returning job.id",
        worker,
        &ids,
        &epochs,
        interval(lease)
    )
    .fetch_all(pool)
    .await?;
    Ok(kept.into_iter().map(JobId).collect())
}

/// Lets other workers have this process's jobs at once: it stops in order. A job with an act under
/// way is not given up: the act may still be on its way to the BMC, and its lease must run out.
pub async fn give_up(pool: &PgPool, worker: &str) -> sqlx::Result<u64> {
    let given = sqlx::query!(
        "update job set lease_until = now() - interval '1 second'
         where worker = $1 and state = 'running' and not exists (
             select from attempt where attempt.job_id = job.id and attempt.outcome is null)",
        worker
    )
    .execute(pool)
    .await?;
    Ok(given.rows_affected())
}
