//! The attempt journal: an intent is durable before its act, an outcome after it.
//!
//! Both are written for many jobs in one statement. A row is written only while its job still has
//! the epoch that the writer holds; what is missing from the answer is stale, and its writer must
//! not act.

use std::collections::HashMap;

use serde_json::json;
use sqlx::PgPool;

use super::{audit, batch, caps, card};
use metalbot_core::domain::error_kind::HostError;
use metalbot_core::domain::ids::{BatchId, Epoch, JobId};
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::principal::Actor;

/// Intent: one try of a step that is about to begin.
#[derive(Clone, Copy, Debug)]
pub struct Intent {
    pub job: JobId,
    pub epoch: Epoch,
    pub step: usize,
    /// 1 for the first try of the step.
    pub try_number: u32,
    /// Set while nothing was done to the host: the intent is refused unless the batch runs.
    pub untouched: bool,
}

/// Outcome of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttemptOutcome {
    Succeeded,
    Failed,
    Unknown,
}

impl AttemptOutcome {
    fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Unknown => "unknown",
        }
    }
}

/// Outcome of an attempt, with the state of its job afterwards.
#[derive(Clone, Debug)]
pub struct OutcomeRow {
    /// `None`: no attempt was begun, and only the job changes.
    pub attempt: Option<i64>,
    pub job: JobId,
    pub epoch: Epoch,
    pub outcome: AttemptOutcome,
    /// Set once the host was, or may have been, touched.
    pub acted: bool,
    /// `None` when it succeeded.
    pub error: Option<HostError>,
    /// `Running` while there is more to do; `Pending` when the job was taken back.
    pub job_state: JobState,
    /// Index of the step to do next.
    pub step: usize,
    /// Set when the job failed in the middle, so that its host may be down.
    pub maybe_down: bool,
}

/// Writes intents; returns the attempt's id for each job that is still ours and may go on.
pub async fn write_intents(
    pool: &PgPool,
    worker: &str,
    intents: &[Intent],
) -> sqlx::Result<HashMap<JobId, i64>> {
    let jobs: Vec<i64> = intents.iter().map(|intent| intent.job.0).collect();
    let epochs: Vec<i64> = intents.iter().map(|intent| intent.epoch.0).collect();
    let steps: Vec<i32> = intents.iter().map(|i| i32::try_from(i.step).unwrap_or(0)).collect();
    let tries: Vec<i32> = intents.iter().map(|intent| intent.try_number.cast_signed()).collect();
    let untouched: Vec<bool> = intents.iter().map(|intent| intent.untouched).collect();
    // The lock for share keeps a takeover waiting until the intent is there for it to see. Whoever locks
    // several jobs locks them in the order of their numbers. The same intent written again, after
    // the answer of a commit was lost, is the first one.
    let written = sqlx::query!(
        "with mine as (
             select job.id, job.epoch, new.step, new.try
             from job join unnest($2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::bool[])
                  as new (job_id, epoch, step, try, untouched)
               on job.id = new.job_id and job.epoch = new.epoch
             join batch on batch.id = job.batch_id
             where job.state = 'running' and job.lease_until >= now()
               and (batch.state = 'running' or not new.untouched)
             order by job.id for share of job)
         insert into attempt (job_id, step, try, epoch, worker)
         select id, step, try, epoch, $1 from mine
         on conflict (job_id) where outcome is null do update set worker = excluded.worker
             where attempt.epoch = excluded.epoch and attempt.step = excluded.step
               and attempt.try = excluded.try
         returning id, job_id",
        worker,
        &jobs,
        &epochs,
        &steps,
        &tries,
        &untouched
    )
    .fetch_all(pool)
    .await?;
    Ok(written.into_iter().map(|row| (JobId(row.job_id), row.id)).collect())
}

/// Writes outcomes and changes the jobs; returns the jobs that were still ours. Wakes nobody: where
/// hundreds of jobs end in a second, a NOTIFY in each transaction would make all commits wait for
/// each other. The caller notifies, now and then.
pub async fn write_outcomes(
    pool: &PgPool,
    worker: &str,
    outcomes: &[OutcomeRow],
) -> sqlx::Result<Vec<JobId>> {
    let attempts: Vec<Option<i64>> = outcomes.iter().map(|o| o.attempt).collect();
    let jobs: Vec<i64> = outcomes.iter().map(|o| o.job.0).collect();
    let epochs: Vec<i64> = outcomes.iter().map(|o| o.epoch.0).collect();
    let results: Vec<String> = outcomes.iter().map(|o| o.outcome.as_str().to_owned()).collect();
    let failed = || outcomes.iter().map(|o| o.error.as_ref());
    let kinds: Vec<Option<String>> =
        failed().map(|error| error.map(|error| error.kind.to_string())).collect();
    let errors: Vec<Option<String>> =
        failed().map(|error| error.map(|error| error.message.clone())).collect();
    let states: Vec<String> = outcomes.iter().map(|o| o.job_state.as_str().to_owned()).collect();
    let steps: Vec<i32> = outcomes.iter().map(|o| i32::try_from(o.step).unwrap_or(0)).collect();
    let ended: Vec<bool> = outcomes.iter().map(|o| o.job_state.is_ended()).collect();
    let acted: Vec<bool> = outcomes.iter().map(|o| o.acted).collect();
    let maybe_down: Vec<bool> = outcomes.iter().map(|o| o.maybe_down).collect();
    let released: Vec<bool> = outcomes.iter().map(|o| o.job_state != JobState::Running).collect();

    let mut tx = pool.begin().await?;
    let written = sqlx::query!(
        r#"with reported as (
               select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[],
                   $5::text[], $6::text[], $7::text[], $8::int[], $9::bool[], $10::bool[],
                   $11::bool[], $12::bool[])
               as r (attempt_id, job_id, epoch, outcome, error_kind, error, state, step, ended,
                   released, maybe_down, acted)),
           mine as (
               select job.id, job.epoch from job join reported
                 on job.id = reported.job_id and job.epoch = reported.epoch
               where job.state = 'running'
               order by job.id for update of job),
           closed as (
               update attempt set outcome = reported.outcome, outcome_at = now(),
                   acted = reported.acted, error_kind = reported.error_kind,
                   error = reported.error
               from reported join mine
                 on mine.id = reported.job_id and mine.epoch = reported.epoch
               where attempt.id = reported.attempt_id and attempt.job_id = reported.job_id
                 and attempt.outcome is null)
           update job set state = reported.state, step = reported.step,
               error_kind = case when reported.state not in ('succeeded', 'pending')
                            then coalesce(reported.error_kind, job.error_kind) end,
               error = case when reported.state not in ('succeeded', 'pending')
                       then coalesce(reported.error, job.error) end,
               worker = case when not reported.released then job.worker end,
               lease_until = case when not reported.released then job.lease_until end,
               started_at = case when reported.state <> 'pending' then job.started_at end,
               maybe_down = reported.maybe_down,
               ended_at = case when reported.ended then now() end
           from reported join mine
             on mine.id = reported.job_id and mine.epoch = reported.epoch
           where job.id = reported.job_id
           returning job.id, job.batch_id, job.host, reported.ended as "ended!",
               reported.released as "released!", job.state, reported.error"#,
        &attempts as _,
        &jobs,
        &epochs,
        &results,
        &kinds as _,
        &errors as _,
        &states,
        &steps,
        &ended,
        &released,
        &maybe_down,
        &acted
    )
    .fetch_all(&mut *tx)
    .await?;
    let actor = Actor { who: "metalbot".into(), via: worker.to_owned() };
    let succeeded: Vec<i64> =
        written.iter().filter(|row| row.state == "succeeded").map(|row| row.id).collect();
    if !succeeded.is_empty() {
        caps::are_up(&mut tx, &succeeded).await?;
    }
    let mut changed = Vec::new();
    for (what, ended) in [("job.ended", true), ("job.recalled", false)] {
        let rows: Vec<_> = written
            .iter()
            .filter(|row| row.released && row.ended == ended)
            .map(|row| {
                let detail = json!({ "host": row.host, "state": row.state, "error": row.error });
                (BatchId(row.batch_id), detail)
            })
            .collect();
        if !rows.is_empty() {
            audit::record_many(&mut tx, &actor, what, &rows).await?;
            changed.extend(rows.into_iter().map(|(batch, _)| batch));
        }
    }
    if !changed.is_empty() {
        changed.sort();
        changed.dedup();
        batch::mark_needs_reconcile(&mut tx, &changed).await?;
        for batch in changed {
            card::progress(&mut tx, batch).await?;
        }
    }
    tx.commit().await?;
    Ok(written.into_iter().map(|row| JobId(row.id)).collect())
}
