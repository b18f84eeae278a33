//! Leases: a worker's right to a job, for as long as the worker says that it is there. Each lease has
//! a higher epoch than the one before and a random fence, and nothing that carries others is written.
//!
//! A worker is a row that it renews. Whoever finds one that is long past deletes it and frees its jobs,
//! which others then take over. That a worker is gone is only a guess: what keeps two of them from
//! acting is that each act is proved by epoch and fence ([`super::attempt`]).

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::jobs_to_lease::{Share, pick};
use super::task_lease::interval;
use super::{audit, corrupt, report};
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::course::Stop;
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::host::{BmcEndpoint, HostName};
use metalbot_core::domain::ids::{BatchId, Epoch, JobId, LeaseId};
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_core::domain::principal::Actor;

/// A job that this worker may work on.
#[derive(Clone, Debug)]
pub struct Leased {
    pub id: LeaseId,
    pub batch: BatchId,
    pub host: HostName,
    /// Index of the step to do next.
    pub step: usize,
    /// Time since that step was first taken up.
    pub step_age: Duration,
    /// Tries of that step that are in the journal.
    pub tries: u32,
    /// Set when something was, or may have been, done to the host, by an attempt that has ended.
    pub touched: bool,
    /// Acts of the plan were left out because the batch was cancelled.
    pub acts_skipped: bool,
    /// How often the job was taken over from a worker that was gone since it last came forward.
    pub takeovers: u32,
    /// Its BMC when the batch was submitted.
    pub bmc: BmcEndpoint,
    /// An attempt that may have acted and has no outcome.
    pub open_attempt: Option<i64>,
    /// What had happened to it from outside when it was leased (`job.news`).
    pub news: i32,
    /// How far people had stopped its batch by then.
    pub stop: Stop,
}

/// Summary of the journal of a job that was leased before.
#[derive(Clone, Copy, Default)]
struct Tried {
    touched: bool,
    tries: i64,
    open: Option<i64>,
}

/// Columns of a leased job.
struct Row {
    id: i64,
    batch_id: i64,
    host: String,
    epoch: i64,
    fence: i64,
    step: i32,
    step_age: f64,
    acts_skipped: bool,
    takeovers: i32,
    taken_over: bool,
    bmc_address: String,
    bmc_credentials: String,
    news: i32,
    batch_state: String,
}

/// Leases up to `at_most` jobs: those whose worker is gone, then those that have waited long enough, then
/// queued ones of running batches, as many of each batch, so that a huge batch does not starve a small
/// one. Where there is room for jobs of some batches only, chance decides which: any order would prefer
/// some.
///
/// Plans of a newer version than this one understands are left to newer processes, and jobs of
/// datacenters that this worker does not reach to others.
///
/// `held` are the jobs that this worker works on. What the database says it has besides was leased by a
/// statement that this worker had given up, or lost by a task of it, and is freed. To look for that goes
/// through everything that the worker has had, and need not be done each time (`None`).
pub async fn take(
    pool: &PgPool,
    worker: &str,
    reachable: &ReachableDatacenters,
    held: Option<&[JobId]>,
    at_most: usize,
) -> sqlx::Result<Vec<Leased>> {
    let mut tx = pool.begin().await?;
    // A worker that was taken for gone must be there again before it has jobs.
    sqlx::query!(
        "insert into worker (name, datacenters) values ($1, $2)
         on conflict (name) do update set beat_at = now()",
        worker,
        reachable.names()
    )
    .execute(&mut *tx)
    .await?;
    if let Some(held) = held {
        free_lost(&mut tx, worker, held).await?;
    }
    let mut rows = take_some(&mut tx, worker, reachable, at_most, Share::Even).await?;
    if !rows.is_empty() && rows.len() < at_most {
        // Some batches had less than their share.
        rows.extend(take_some(&mut tx, worker, reachable, at_most - rows.len(), Share::All).await?);
    }
    if rows.is_empty() {
        tx.commit().await?;
        return Ok(Vec::new());
    }
    let unreadable: Vec<i64> = rows
        .iter()
        .filter(|row| row.host.parse::<HostName>().is_err() || row.step < 0)
        .map(|row| row.id)
        .collect();
    rows.retain(|row| !unreadable.contains(&row.id));
    let tried = tried(&mut tx, &rows).await?;
    let actor = Actor { who: "metalbot".into(), via: worker.to_owned() };
    let taken_over: Vec<_> = rows
        .iter()
        .filter(|row| row.taken_over)
        .map(|row| {
            let detail = serde_json::json!({ "host": row.host, "epoch": row.epoch });
            (BatchId(row.batch_id), detail)
        })
        .collect();
    if !taken_over.is_empty() {
        audit::record_many(&mut tx, &actor, "job.taken_over", &taken_over).await?;
        let jobs: Vec<i64> = rows.iter().filter(|row| row.taken_over).map(|row| row.id).collect();
        report::revoke_taken_over(&mut tx, &jobs).await?;
    }
    tx.commit().await?;
    if !unreadable.is_empty() {
        quarantine_unreadable(pool, worker, &unreadable).await?;
    }
    rows.into_iter()
        .map(|row| {
            let Tried { touched, tries, open } = tried.get(&row.id).copied().unwrap_or_default();
            let (job, epoch) = (JobId(row.id), Epoch(row.epoch));
            Ok(Leased {
                id: LeaseId { job, epoch, fence: row.fence },
                batch: BatchId(row.batch_id),
                host: row.host.parse().map_err(corrupt)?,
                step: usize::try_from(row.step).map_err(corrupt)?,
                step_age: Duration::from_secs_f64(row.step_age.max(0.0)),
                tries: u32::try_from(tries).unwrap_or(u32::MAX),
                touched,
                acts_skipped: row.acts_skipped,
                takeovers: u32::try_from(row.takeovers).unwrap_or(u32::MAX),
                bmc: BmcEndpoint { address: row.bmc_address, credentials: row.bmc_credentials },
                open_attempt: open,
                news: row.news,
                stop: stop(&row.batch_state),
            })
        })
        .collect()
}

/// Frees jobs that this worker has by the database and does not hold.
async fn free_lost(conn: &mut PgConnection, worker: &str, held: &[JobId]) -> sqlx::Result<()> {
    let held: Vec<i64> = held.iter().map(|job| job.0).collect();
    sqlx::query!(
        // Whoever locks several jobs locks them in the order of their numbers.
        "with lost as (
             select id from job
             where state = 'running' and worker = $1 and id <> all($2)
             order by id for update)
         update job set worker = null from lost where job.id = lost.id",
        worker,
        &held
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends jobs whose rows say nothing that could be worked on: a bad row concerns itself alone.
async fn quarantine_unreadable(pool: &PgPool, worker: &str, jobs: &[i64]) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    // Batches before jobs, as everybody (see `super::job`).
    sqlx::query!(
        "select id from batch where id in (select batch_id from job where id = any($1))
         order by id for no key update",
        jobs
    )
    .fetch_all(&mut *tx)
    .await?;
    let batches = sqlx::query_scalar!(
        "update job set state = 'quarantined', worker = null, ended_at = now(), error_kind = $2,
             error = 'the database says nothing of this job that can be read: look at the host, '
                 'then release it'
         where id = any($1) and state = 'running' and worker = $3 returning batch_id",
        jobs,
        ErrorKind::JournalRefused.as_str(),
        worker
    )
    .fetch_all(&mut *tx)
    .await?;
    let batches: Vec<BatchId> = batches.into_iter().map(BatchId).collect();
    super::batch::request_reconcile(&mut tx, &batches).await?;
    tx.commit().await
}

async fn take_some(
    conn: &mut PgConnection,
    worker: &str,
    reachable: &ReachableDatacenters,
    at_most: usize,
    share: Share,
) -> sqlx::Result<Vec<Row>> {
    let picked = pick(&mut *conn, reachable, at_most, share).await?;
    if picked.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, taken_over): (Vec<i64>, Vec<bool>) =
        picked.into_iter().map(|job| (job.id, job.taken_over)).unzip();
    sqlx::query_as!(
        Row,
        r#"update job set state = 'running', worker = $1, epoch = epoch + 1,
               fence = (random() * 9007199254740991)::bigint, wake_at = null,
               takeovers = takeovers + picked.taken_over::int,
               started_at = coalesce(job.started_at, now()),
               step_began_at = coalesce(job.step_began_at, now())
           from unnest($2::bigint[], $3::bool[]) as picked (id, taken_over), batch
           where job.id = picked.id and batch.id = job.batch_id
           returning job.id, job.batch_id, job.host, job.epoch, job.fence, job.step,
               extract(epoch from now() - job.step_began_at)::float8 as "step_age!",
               job.acts_skipped, job.takeovers, picked.taken_over as "taken_over!", job.bmc_address,
               job.bmc_credentials, job.news, batch.state as batch_state"#,
        worker,
        &ids,
        &taken_over
    )
    .fetch_all(conn)
    .await
}

/// What the journal says of jobs that somebody had before.
async fn tried(conn: &mut PgConnection, rows: &[Row]) -> sqlx::Result<HashMap<i64, Tried>> {
    let ids: Vec<i64> = rows.iter().filter(|row| row.epoch > 1).map(|row| row.id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    // Tries from before the job was handed back do not count, nor does one in which nothing was sent.
    let tried = sqlx::query!(
        r#"select attempt.job_id,
                  count(*) filter (where attempt.step = job.step
                                     and attempt.intent_at >= job.started_at
                                     and attempt.error_kind is distinct from $2) as "tries!",
                  coalesce(bool_or(acted) filter (where outcome is not null), false) as "acted!",
                  max(attempt.id) filter (where outcome is null) as open
           from attempt join job on job.id = attempt.job_id
           where attempt.job_id = any($1)
           group by attempt.job_id"#,
        &ids,
        ErrorKind::NoPermit.as_str()
    )
    .fetch_all(conn)
    .await?;
    Ok(tried
        .into_iter()
        .map(|row| (row.job_id, Tried { touched: row.acted, tries: row.tries, open: row.open }))
        .collect())
}

/// What a beat tells a worker of one of its jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// The job is not this worker's any more.
    Lost,
    Stopped(Stop),
}

/// How far a batch in this state is stopped. In one that only a newer release knows, nothing is begun.
fn stop(batch: &str) -> Stop {
    match batch.parse() {
        Ok(BatchState::Running) => Stop::No,
        Ok(BatchState::Paused) => Stop::Paused,
        _ => Stop::Cancelled,
    }
}

/// Says that this worker is there, and frees the jobs of workers that have not said so for `lease`.
/// Returns what is to be known of the jobs that it holds; of all others there is nothing new.
pub async fn beat(
    pool: &PgPool,
    worker: &str,
    reachable: &ReachableDatacenters,
    held: &[LeaseId],
    lease: Duration,
) -> sqlx::Result<HashMap<LeaseId, Told>> {
    let jobs: Vec<i64> = held.iter().map(|id| id.job.0).collect();
    let epochs: Vec<i64> = held.iter().map(|id| id.epoch.0).collect();
    let fences: Vec<i64> = held.iter().map(|id| id.fence).collect();
    let told = sqlx::query!(
        r#"with alive as (
               insert into worker (name, datacenters) values ($1, $5)
               on conflict (name) do update set beat_at = now())
           select held.job_id as "job_id!", held.epoch as "epoch!", held.fence as "fence!",
               not ours as "lost!", batch.state as "state?"
           from unnest($2::bigint[], $3::bigint[], $4::bigint[]) as held (job_id, epoch, fence)
           left join job on job.id = held.job_id and job.epoch = held.epoch
               and job.fence = held.fence
           left join batch on batch.id = job.batch_id
           cross join lateral (
               select coalesce(job.state = 'running' and job.worker = $1, false) as ours) as found
           where not ours or batch.state <> 'running'"#,
        worker,
        &jobs,
        &epochs,
        &fences,
        reachable.names()
    )
    .fetch_all(pool)
    .await?;
    sqlx::query!("delete from worker where beat_at < now() - $1::interval", interval(lease))
        .execute(pool)
        .await?;
    sqlx::query!(
        // Whoever locks several jobs locks them in the order of their numbers.
        "with orphaned as (
             select id from job where state = 'running' and worker is not null
                 and not exists (select from worker where worker.name = job.worker)
             order by id for update)
         update job set worker = null from orphaned where job.id = orphaned.id"
    )
    .execute(pool)
    .await?;
    Ok(told
        .into_iter()
        .map(|row| {
            let id = LeaseId { job: JobId(row.job_id), epoch: Epoch(row.epoch), fence: row.fence };
            let told = match row.state {
                Some(state) if !row.lost => Told::Stopped(stop(&state)),
                _ => Told::Lost,
            };
            (id, told)
        })
        .collect())
}

/// Ends a worker, whose process stops in order. Jobs of which nothing is open are for others at once;
/// of an attempt that is open nobody can say yet what became of it, and its job is taken over.
pub async fn retire(pool: &PgPool, worker: &str) -> sqlx::Result<u64> {
    let mut tx = pool.begin().await?;
    sqlx::query!("delete from worker where name = $1", worker).execute(&mut *tx).await?;
    let given = sqlx::query!(
        "with mine as (
             select id, exists (select from attempt where job_id = job.id and outcome is null) as open
             from job where worker = $1 and state = 'running' order by id for update)
         update job set worker = null,
             state = case when mine.open then 'running' else 'waiting' end,
             wake_at = case when not mine.open then now() end
         from mine where job.id = mine.id",
        worker
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(given.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{
        AttemptEnd, AttemptOutcome, Intent, IntentAnswer, OutcomeRow, write_intents, write_outcomes,
    };
    use metalbot_core::domain::course::may_act;
    use metalbot_core::domain::error_kind::HostError;
    use metalbot_core::domain::job::JobState;

    const LONG: Duration = Duration::from_secs(60);
    const ALL: &ReachableDatacenters = &ReachableDatacenters::ALL;

    /// A running batch with one queued job.
    async fn one_job(pool: &PgPool) {
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             values ('reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice',
                 'running', '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal');
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select id, 'web01', 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0,
                 'queued' from batch";
        sqlx::raw_sql(rows).execute(pool).await.unwrap();
    }

    async fn take_one(pool: &PgPool, worker: &str) -> Option<Leased> {
        take(pool, worker, ALL, Some(&[]), 10).await.unwrap().pop()
    }

    fn intent(leased: &Leased) -> Intent {
        Intent { lease: leased.id, step: leased.step, try_number: 1, finishing: false }
    }

    async fn answer(pool: &PgPool, worker: &str, intent: Intent) -> Option<IntentAnswer> {
        write_intents(pool, worker, &[intent]).await.unwrap().get(&intent.lease).copied()
    }

    fn ended(leased: &Leased, job_state: JobState, acted: bool) -> OutcomeRow {
        OutcomeRow {
            lease: leased.id,
            attempt: Some(AttemptEnd {
                step: leased.step,
                try_number: 1,
                began_ago: Duration::ZERO,
                outcome: AttemptOutcome::Failed,
                acted,
                error: Some(HostError::new(ErrorKind::BmcUnreachable, "silent")),
            }),
            job_state,
            step: leased.step,
            acts_skipped: false,
            wake_in: (job_state == JobState::Waiting).then_some(Duration::ZERO),
            news_seen: leased.news,
            maybe_down: false,
        }
    }

    fn success(leased: &Leased) -> OutcomeRow {
        let row = ended(leased, JobState::Succeeded, true);
        let end = AttemptEnd {
            outcome: AttemptOutcome::Succeeded,
            error: None,
            ..row.attempt.clone().unwrap()
        };
        OutcomeRow { attempt: Some(end), step: leased.step + 1, ..row }
    }

    async fn texts(pool: &PgPool, query: &'static str) -> Vec<String> {
        sqlx::query_scalar(query).fetch_all(pool).await.unwrap()
    }

    /// As if the worker had not been heard of for a minute.
    async fn silence(pool: &PgPool, worker: &str) {
        sqlx::query("update worker set beat_at = now() - interval '1 minute' where name = $1")
            .bind(worker)
            .execute(pool)
            .await
            .unwrap();
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_lease_is_exclusive_until_its_worker_is_gone_and_a_stale_one_writes_nothing(
        pool: PgPool,
    ) {
        one_job(&pool).await;
        let old = take_one(&pool, "a").await.expect("it is queued");
        assert!(take_one(&pool, "b").await.is_none());
        let Some(IntentAnswer::Written(attempt)) = answer(&pool, "a", intent(&old)).await else {
            panic!("it is allowed")
        };
        assert!(beat(&pool, "b", ALL, &[], LONG).await.unwrap().is_empty());
        assert!(take_one(&pool, "b").await.is_none(), "its worker is there");
        silence(&pool, "a").await;
        beat(&pool, "b", ALL, &[], Duration::from_secs(59)).await.unwrap();

        let new = take_one(&pool, "b").await.expect("its worker is gone");
        assert!(new.id.epoch > old.id.epoch && new.id.fence != old.id.fence);
        assert_eq!((new.open_attempt, new.tries, new.takeovers), (Some(attempt), 1, 1));
        assert_eq!(answer(&pool, "a", intent(&old)).await, None);
        assert!(write_outcomes(&pool, "a", &[success(&old)]).await.unwrap().is_empty());
        assert_eq!(beat(&pool, "a", ALL, &[old.id], LONG).await.unwrap()[&old.id], Told::Lost);
        let open = texts(&pool, "select id::text from attempt where outcome is null").await;
        assert_eq!(open.len(), 1, "a stale outcome closes nothing");

        // An epoch that was given twice is told apart by its fence.
        let forged = LeaseId { fence: new.id.fence + 1, ..new.id };
        assert_eq!(answer(&pool, "b", Intent { lease: forged, ..intent(&new) }).await, None);
        // One worker may hold both, when it took its own job again: they can meet in one group.
        let group = [ended(&old, JobState::Failed, true), success(&new)];
        assert_eq!(write_outcomes(&pool, "b", &group).await.unwrap(), [new.id]);
        let ends =
            "select job.state || ' ' || attempt.outcome from job join attempt on job_id = job.id";
        assert_eq!(texts(&pool, ends).await, ["succeeded succeeded"], "only the new one counts");
        assert!(take_one(&pool, "a").await.is_none(), "it has ended");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn an_intent_whose_answer_was_lost_is_the_row_of_the_next(pool: PgPool) {
        one_job(&pool).await;
        let leased = take_one(&pool, "a").await.expect("it is queued");
        let first = answer(&pool, "a", intent(&leased)).await;
        let again = answer(&pool, "a", Intent { try_number: 2, ..intent(&leased) }).await;
        assert_eq!(first, again);
        assert_eq!(texts(&pool, "select try::text from attempt").await, ["2"]);
        let other_step = Intent { step: 1, ..intent(&leased) };
        assert_eq!(answer(&pool, "a", other_step).await, None, "the job has not come so far");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_a_task_has_lost_or_a_stopped_process_left_is_for_others(pool: PgPool) {
        one_job(&pool).await;
        let lost = take_one(&pool, "a").await.expect("it is queued");
        assert!(
            take(&pool, "a", ALL, Some(&[lost.id.job]), 10).await.unwrap().is_empty(),
            "it is held"
        );
        let again = take_one(&pool, "a").await.expect("no task of its worker holds it");
        assert_eq!(again.takeovers, 1);
        assert_eq!(retire(&pool, "a").await.unwrap(), 1);
        let given = take_one(&pool, "b").await.expect("it was handed over");
        assert_eq!(given.takeovers, 1, "a process that stops in order has lost nothing");
        answer(&pool, "b", intent(&given)).await.expect("it is allowed");
        retire(&pool, "b").await.unwrap();
        let open = take_one(&pool, "c").await.expect("its worker is gone");
        assert!(open.open_attempt.is_some() && open.takeovers == 2);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_row_that_cannot_be_read_concerns_itself_alone(pool: PgPool) {
        one_job(&pool).await;
        let bad = "insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select id, 'no host at all!', 'web', 'fra1', 'r1', 's1', '10.0.0.2', 'default', 0,
                 'queued' from batch";
        sqlx::raw_sql(bad).execute(&pool).await.unwrap();
        let leased = take(&pool, "a", ALL, Some(&[]), 10).await.unwrap();
        assert_eq!(leased.len(), 1);
        let states = texts(&pool, "select state from job order by id").await;
        assert_eq!(states, ["running", "quarantined"]);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_step_s_time_runs_on_whoever_takes_its_job(pool: PgPool) {
        one_job(&pool).await;
        take_one(&pool, "a").await.expect("it is queued");
        let earlier = "update job set step_began_at = step_began_at - interval '100 s'";
        sqlx::raw_sql(earlier).execute(&pool).await.unwrap();
        let old = Duration::from_secs(100);
        silence(&pool, "a").await;
        beat(&pool, "b", ALL, &[], Duration::from_secs(59)).await.unwrap();
        let taken_over = take_one(&pool, "b").await.expect("its worker is gone");
        assert!(taken_over.step_age >= old, "{:?}", taken_over.step_age);
        let parked = OutcomeRow { attempt: None, ..ended(&taken_over, JobState::Waiting, false) };
        write_outcomes(&pool, "b", &[parked]).await.unwrap();
        let woken = take_one(&pool, "c").await.expect("it is due");
        assert!(woken.step_age >= old, "{:?}", woken.step_age);
        let next = OutcomeRow { step: 1, ..ended(&woken, JobState::Waiting, true) };
        write_outcomes(&pool, "c", &[next]).await.unwrap();
        let next = take_one(&pool, "d").await.expect("it is due");
        assert!(next.step_age < old, "the next step has a time of its own");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_job_that_waits_is_nobody_s_until_its_time(pool: PgPool) {
        one_job(&pool).await;
        let leased = take_one(&pool, "a").await.expect("it is queued");
        let parked = OutcomeRow {
            attempt: None,
            acts_skipped: false,
            wake_in: Some(LONG),
            news_seen: leased.news,
            ..ended(&leased, JobState::Waiting, false)
        };
        assert_eq!(write_outcomes(&pool, "a", &[parked]).await.unwrap(), [leased.id]);
        assert!(take_one(&pool, "b").await.is_none(), "its time has not come");
        let mut tx = pool.begin().await.unwrap();
        crate::job::wake(&mut tx, leased.batch).await.unwrap();
        tx.commit().await.unwrap();
        let woken = take_one(&pool, "b").await.expect("it was woken");
        assert_eq!((woken.takeovers, woken.tries), (0, 0));
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn each_running_batch_has_its_turn_in_the_order_of_its_jobs(pool: PgPool) {
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             select 'reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice', state,
                 '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal' from unnest(array['running', 'paused', 'running']) as state;
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select id, batch.id || 'web' || n, 'web', 'fra1', 'r1', 's1', '10.0.0.1',
                 'default', 0, 'queued'
             from batch, generate_series(1, case id when 3 then 2 else 50 end) as n";
        sqlx::raw_sql(rows).execute(&pool).await.unwrap();
        let mut held = Vec::new();
        let mut take = async |at_most: usize| {
            let leased = take(&pool, "a", ALL, Some(&held), at_most).await.unwrap();
            held.extend(leased.iter().map(|leased| leased.id.job));
            let mut hosts: Vec<String> =
                leased.into_iter().map(|leased| leased.host.to_string()).collect();
            hosts.sort();
            hosts
        };
        assert_eq!(take(2).await, ["1web1", "3web1"]);
        assert_eq!(take(4).await, ["1web2", "1web3", "1web4", "3web2"]);
        assert_eq!(take(100).await.len(), 46, "the paused batch's stay");
        assert!(take(1).await.is_empty());
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_small_batch_is_not_starved_where_there_is_room_for_one_host_at_a_time(pool: PgPool) {
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             select 'reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice',
                 'running', '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal' from generate_series(1, 2);
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select batch.id, batch.id || 'web' || n, 'web', 'fra1', 'r1', 's1', '10.0.0.1',
                 'default', 0, 'queued'
             from batch, generate_series(1, case id when 1 then 500 else 20 end) as n";
        sqlx::raw_sql(rows).execute(&pool).await.unwrap();
        let (mut of_small, mut held) = (0, Vec::new());
        for _ in 0..200 {
            let leased = take(&pool, "a", ALL, Some(&held), 1).await.unwrap();
            of_small += leased.iter().filter(|leased| leased.batch.0 == 2).count();
            held.extend(leased.iter().map(|leased| leased.id.job));
        }
        assert_eq!(of_small, 20, "all of it, unless chance is against it 180 times of 200");
    }

    /// The statement and the rule of the domain say the same.
    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_may_act_is_what_the_domain_says(pool: PgPool) {
        one_job(&pool).await;
        let leased = take_one(&pool, "a").await.expect("it is queued");
        for batch in BatchState::ALL {
            sqlx::query("update batch set state = $1")
                .bind(batch.as_str())
                .execute(&pool)
                .await
                .unwrap();
            for (touched, finishing) in [(false, false), (false, true), (true, false), (true, true)]
            {
                sqlx::raw_sql("delete from attempt").execute(&pool).await.unwrap();
                if touched {
                    let row = ended(&leased, JobState::Running, true);
                    write_outcomes(&pool, "a", &[row]).await.unwrap();
                }
                let answer = answer(&pool, "a", Intent { finishing, ..intent(&leased) }).await;
                assert_eq!(
                    matches!(answer, Some(IntentAnswer::Written(_))),
                    may_act(batch, touched, finishing).is_some(),
                    "{batch} touched: {touched} finishing: {finishing}"
                );
            }
        }
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_was_not_touched_goes_back_and_begins_anew(pool: PgPool) {
        one_job(&pool).await;
        let leased = take_one(&pool, "a").await.expect("it is queued");
        write_outcomes(&pool, "a", &[ended(&leased, JobState::Running, false)]).await.unwrap();
        sqlx::query("update batch set state = 'paused', needs_reconcile = false")
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(answer(&pool, "a", intent(&leased)).await, Some(IntentAnswer::Stopped));
        let told = beat(&pool, "a", ALL, &[leased.id], LONG).await.unwrap();
        assert_eq!(told[&leased.id], Told::Stopped(Stop::Paused));
        let back = ended(&leased, JobState::Pending, false);
        assert_eq!(write_outcomes(&pool, "a", &[back]).await.unwrap(), [leased.id]);
        let row = "select concat_ws(' ', job.state, worker, job.started_at, error_kind,
                 needs_reconcile) from job join batch on batch.id = batch_id";
        assert_eq!(texts(&pool, row).await, ["pending t"]);

        sqlx::raw_sql("update batch set state = 'running'; update job set state = 'queued'")
            .execute(&pool)
            .await
            .unwrap();
        let mut leased = take_one(&pool, "b").await.expect("it is queued");
        assert_eq!((leased.tries, leased.touched, leased.open_attempt), (0, false, None));
        for (tries, acted) in [(1, false), (2, true)] {
            let row = ended(&leased, JobState::Waiting, acted);
            write_outcomes(&pool, "b", &[row]).await.unwrap();
            leased = take_one(&pool, "b").await.expect("its time has come");
            assert_eq!((leased.tries, leased.touched), (tries, acted));
        }
    }
}
