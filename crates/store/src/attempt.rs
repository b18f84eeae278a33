//! The attempt journal: an intent is durable before its act, an outcome after it.
//!
//! Both are written for many jobs in one statement. A row is written only while its job is still the
//! writer's; what is missing from the answer is not, and its writer must not act.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use sqlx::{PgPool, PgTransaction};

use super::{audit, batch, caps, card};
use metalbot_core::domain::error_kind::HostError;
use metalbot_core::domain::ids::{BatchId, Epoch, JobId, LeaseId};
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::principal::Actor;

/// Intent: an act of a step that is about to be done.
#[derive(Clone, Copy, Debug)]
pub struct Intent {
    pub lease: LeaseId,
    pub step: usize,
    /// 1 for the first try of the step.
    pub try_number: u32,
    /// The step brings the host to a safe end.
    pub finishing: bool,
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

/// End of an attempt: of the open one, or of one that acted on nothing.
#[derive(Clone, Debug)]
pub struct AttemptEnd {
    pub step: usize,
    /// 1 for the first try of the step.
    pub try_number: u32,
    pub began_ago: Duration,
    pub outcome: AttemptOutcome,
    /// Set if the host was, or may have been, touched by it.
    pub acted: bool,
    /// `None` when it succeeded.
    pub error: Option<HostError>,
}

/// What a worker writes of a job of its own.
#[derive(Clone, Debug)]
pub struct OutcomeRow {
    pub lease: LeaseId,
    /// `None`: an attempt that is open stays so, and only the job changes.
    pub attempt: Option<AttemptEnd>,
    /// `Running` while there is more to do.
    pub job_state: JobState,
    /// Index of the step to do next.
    pub step: usize,
    /// Set once acts of the plan were left out because the batch was cancelled.
    pub acts_skipped: bool,
    /// How long a job waits that is [`JobState::Waiting`].
    pub wake_in: Option<Duration>,
    /// What its worker knows of that happened to it from outside ([`Leased::news`]): it is not left
    /// waiting beside anything newer.
    ///
    /// [`Leased::news`]: super::lease::Leased::news
    pub news_seen: i32,
    /// Set when the job leaves its host down: it failed in the middle, or was to turn it off.
    pub maybe_down: bool,
}

/// Answer to an intent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntentAnswer {
    /// It is durable, as this attempt.
    Written(i64),
    /// The batch's state forbids the act.
    Stopped,
}

/// Writes intents of acts that are still allowed, all in one statement; answers for each job that is
/// still ours.
///
/// It proves that the job is ours (epoch, fence, worker), that it has come to this step, and that the
/// batch's state allows the act, as [`metalbot_core::domain::course::may_act`] has it. Whether the host
/// was touched is what the journal says.
pub async fn write_intents(
    pool: &PgPool,
    worker: &str,
    intents: &[Intent],
) -> sqlx::Result<HashMap<LeaseId, IntentAnswer>> {
    let jobs: Vec<i64> = intents.iter().map(|intent| intent.lease.job.0).collect();
    let epochs: Vec<i64> = intents.iter().map(|intent| intent.lease.epoch.0).collect();
    let fences: Vec<i64> = intents.iter().map(|intent| intent.lease.fence).collect();
    let steps: Vec<i32> = intents.iter().map(|i| i32::try_from(i.step).unwrap_or(0)).collect();
    let tries: Vec<i32> = intents.iter().map(|intent| intent.try_number.cast_signed()).collect();
    let finishing: Vec<bool> = intents.iter().map(|intent| intent.finishing).collect();
    let mut tx = pool.begin().await?;
    // A batch begins under its row's lock, as its approval is taken back: one of them is first.
    sqlx::query!(
        "with begins as (
             select batch.id from batch
             where begun_at is null and state = 'running' and id in (
                 select batch_id from job where job.id = any($1))
             order by id for no key update)
         update batch set begun_at = now() from begins where batch.id = begins.id",
        &jobs
    )
    .execute(&mut *tx)
    .await?;
    // The lock for share keeps a takeover waiting until the intent is there for it to see. Whoever locks
    // several jobs locks them in the order of their numbers. An intent whose answer was lost is void,
    // and is the row of the next one under the same lease.
    let answers = sqlx::query!(
        r#"with asked as (
               select * from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::int[],
                   $7::bool[]) as asked (job_id, epoch, fence, step, try, finishing)),
           named as (
               select asked.*, job.batch_id, job.state, job.worker from asked
               join job on job.id = asked.job_id and job.epoch = asked.epoch
                   and job.fence = asked.fence and job.step = asked.step
               order by job.id for share of job),
           mine as (
               select named.*, batch.state as batch_state, exists (
                   select from attempt where attempt.job_id = named.job_id and attempt.acted) as touched
               from named join batch on batch.id = named.batch_id
               where named.state = 'running' and named.worker = $1),
           allowed as (
               select * from mine where case batch_state
                   when 'running' then true when 'paused' then touched else touched and finishing end),
           written as (
               insert into attempt (job_id, step, try, epoch, worker)
               select job_id, step, try, epoch, $1 from allowed
               on conflict (job_id) where outcome is null do update set worker = excluded.worker,
                   step = excluded.step, try = excluded.try, intent_at = now()
                   where attempt.epoch = excluded.epoch
               returning id, job_id)
           select mine.job_id as "job_id!", mine.epoch as "epoch!", mine.fence as "fence!",
               written.id as "attempt?"
           from mine left join written on written.job_id = mine.job_id"#,
        worker,
        &jobs,
        &epochs,
        &fences,
        &steps,
        &tries,
        &finishing
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(answers
        .into_iter()
        .map(|row| {
            let (job, epoch) = (JobId(row.job_id), Epoch(row.epoch));
            let answer = row.attempt.map_or(IntentAnswer::Stopped, IntentAnswer::Written);
            (LeaseId { job, epoch, fence: row.fence }, answer)
        })
        .collect())
}

/// Locks jobs that are about to be written, after the batches of those that leave them: see
/// [`super::job`]. In statements of their own, so that the next one sees what was written meanwhile by
/// those who were waited for: an intent whose answer was lost, a report, a stop.
async fn lock(tx: &mut PgTransaction<'_>, leaving: &[i64], jobs: &[i64]) -> sqlx::Result<()> {
    if !leaving.is_empty() {
        sqlx::query!(
            "select id from batch where id in (select batch_id from job where id = any($1))
             order by id for no key update",
            leaving
        )
        .fetch_all(&mut **tx)
        .await?;
    }
    sqlx::query!("select id from job where id = any($1) order by id for update", jobs)
        .fetch_all(&mut **tx)
        .await?;
    Ok(())
}

/// Writes outcomes and changes the jobs; returns the jobs that were still ours. Wakes nobody: where
/// hundreds of jobs end in a second, a NOTIFY in each transaction would make all commits wait for
/// each other. The caller notifies, now and then.
pub async fn write_outcomes(
    pool: &PgPool,
    worker: &str,
    outcomes: &[OutcomeRow],
) -> sqlx::Result<Vec<LeaseId>> {
    let jobs: Vec<i64> = outcomes.iter().map(|o| o.lease.job.0).collect();
    let epochs: Vec<i64> = outcomes.iter().map(|o| o.lease.epoch.0).collect();
    let fences: Vec<i64> = outcomes.iter().map(|o| o.lease.fence).collect();
    let states: Vec<String> = outcomes.iter().map(|o| o.job_state.as_str().to_owned()).collect();
    let steps: Vec<i32> = outcomes.iter().map(|o| i32::try_from(o.step).unwrap_or(0)).collect();
    let wakes: Vec<Option<f64>> =
        outcomes.iter().map(|o| o.wake_in.map(|wait| wait.as_secs_f64())).collect();
    let news_seen: Vec<i32> = outcomes.iter().map(|o| o.news_seen).collect();
    let ended: Vec<bool> = outcomes.iter().map(|o| o.job_state.is_ended()).collect();
    let acts_skipped: Vec<bool> = outcomes.iter().map(|o| o.acts_skipped).collect();
    let maybe_down: Vec<bool> = outcomes.iter().map(|o| o.maybe_down).collect();
    let ends = || outcomes.iter().map(|o| o.attempt.as_ref());
    let results: Vec<Option<String>> =
        ends().map(|end| Some(end?.outcome.as_str().to_owned())).collect();
    let tried_steps: Vec<Option<i32>> =
        ends().map(|end| Some(i32::try_from(end?.step).unwrap_or(0))).collect();
    let tries: Vec<Option<i32>> = ends().map(|end| Some(end?.try_number.cast_signed())).collect();
    let began: Vec<Option<f64>> = ends().map(|end| Some(end?.began_ago.as_secs_f64())).collect();
    let acted: Vec<Option<bool>> = ends().map(|end| Some(end?.acted)).collect();
    let errors = || ends().map(|end| end?.error.as_ref());
    let kinds: Vec<Option<String>> = errors().map(|error| Some(error?.kind.to_string())).collect();
    let messages: Vec<Option<String>> =
        errors().map(|error| Some(error?.message.clone())).collect();
    let mut tx = pool.begin().await?;
    let succeeding = outcomes.iter().filter(|o| o.job_state == JobState::Succeeded);
    let succeeding: Vec<i64> = succeeding.map(|o| o.lease.job.0).collect();
    let left_down = match succeeding.is_empty() {
        true => Vec::new(),
        false => caps::left_down(&mut tx, &succeeding).await?,
    };
    let leaving =
        outcomes.iter().filter(|o| o.job_state.is_ended() || o.job_state == JobState::Pending);
    let leaving: Vec<i64> = leaving.map(|o| o.lease.job.0).collect();
    lock(&mut tx, &leaving, &[&jobs[..], &left_down].concat()).await?;
    let written = sqlx::query!(
        // Which are ours is asked after they were found: statistics may not know yet that many run, and
        // then the jobs that run would be gone through for each that is named.
        r#"with reported as (
               select * from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::int[],
                   $7::float8[], $8::bool[], $9::bool[], $10::text[], $11::int[], $12::int[],
                   $13::float8[], $14::bool[], $15::text[], $16::text[], $17::bool[], $18::int[])
               as r (job_id, epoch, fence, state, step, wake_in, ended, maybe_down, outcome,
                   tried_step, try, began_ago, acted, error_kind, error, acts_skipped, news_seen)),
           named as materialized (
               select reported.*, job.step as step_before, job.state as state_before, job.worker
               from job join reported on job.id = reported.job_id and job.epoch = reported.epoch
                   and job.fence = reported.fence),
           mine as (select * from named where state_before = 'running' and worker = $1),
           closed as (
               update attempt set outcome = mine.outcome, outcome_at = now(),
                   acted = mine.acted, error_kind = mine.error_kind, error = mine.error
               from mine
               where attempt.job_id = mine.job_id and attempt.outcome is null
                   and mine.outcome is not null
               returning attempt.job_id),
           added as (
               insert into attempt (job_id, step, try, epoch, worker, intent_at, outcome, outcome_at,
                   acted, error_kind, error)
               select job_id, tried_step, try, epoch, $1, now() - make_interval(secs => began_ago),
                   outcome, now(), acted, error_kind, error
               from mine
               where outcome is not null
                   and job_id not in (select job_id from closed))
           update job set state = mine.state, step = mine.step,
               error_kind = case when mine.state not in ('succeeded', 'pending')
                            then coalesce(mine.error_kind, job.error_kind) end,
               error = case when mine.state not in ('succeeded', 'pending')
                       then coalesce(mine.error, job.error) end,
               worker = case when mine.state = 'running' then job.worker end,
               wake_at = case when mine.state = 'waiting' then
                   case when job.news = mine.news_seen
                        then now() + make_interval(secs => mine.wake_in) else now() end end,
               started_at = case when mine.state <> 'pending' then job.started_at end,
               step_began_at = case when mine.state <> 'pending' then
                   case when mine.step = mine.step_before then job.step_began_at else now() end end,
               progress_percent = case when mine.step = mine.step_before
                                  then job.progress_percent end,
               progress_phase = case when mine.step = mine.step_before then job.progress_phase end,
               takeovers = case when mine.outcome is null then job.takeovers else 0 end,
               acts_skipped = mine.acts_skipped,
               maybe_down = mine.maybe_down,
               ended_at = case when mine.ended then now() end
           from mine
           where job.id = mine.job_id
           returning job.id, mine.epoch as "epoch!", mine.fence as "fence!", job.batch_id, job.host,
               mine.ended as "ended!", job.state, mine.error"#,
        worker,
        &jobs,
        &epochs,
        &fences,
        &states,
        &steps,
        &wakes as _,
        &ended,
        &maybe_down,
        &results as _,
        &tried_steps as _,
        &tries as _,
        &began as _,
        &acted as _,
        &kinds as _,
        &messages as _,
        &acts_skipped,
        &news_seen
    )
    .fetch_all(&mut *tx)
    .await?;
    let actor = Actor { who: "metalbot".into(), via: worker.to_owned() };
    let succeeded: Vec<i64> =
        written.iter().filter(|row| row.state == "succeeded").map(|row| row.id).collect();
    if !left_down.is_empty() {
        caps::are_up(&mut tx, &succeeded).await?;
    }
    let mut changed = Vec::new();
    for (what, ended) in [("job.ended", true), ("job.recalled", false)] {
        let rows: Vec<_> = written
            .iter()
            .filter(|row| row.ended == ended && (ended || row.state == "pending"))
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
    let lease = |job, epoch, fence| LeaseId { job: JobId(job), epoch: Epoch(epoch), fence };
    Ok(written.into_iter().map(|row| lease(row.id, row.epoch, row.fence)).collect())
}
