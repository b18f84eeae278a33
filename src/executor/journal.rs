//! Groups the journal's writes: the intents, and the outcomes, of many jobs go in one statement.
//!
//! An intent is asked for once: an answer that comes late is worth nothing, and its row is void. An
//! outcome that meets a database that is away is written again until it is back. Both are safe: rows are
//! written only for jobs that are still ours. A row that the database refuses for its values delays no
//! other: its job is quarantined, or else left to whoever leases it next.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use crate::failpoint::{Point, reach};
use crate::runtime::notifier::Notifier;
use crate::telemetry;
use metalbot_core::domain::course::{ACT_LIFETIME, Why};
use metalbot_core::domain::error_kind::{ErrorKind, HostError};
use metalbot_core::domain::ids::LeaseId;
use metalbot_core::domain::job::{JobEvent, JobState, next};
use metalbot_store::attempt::{
    AttemptEnd, AttemptOutcome, Intent, IntentAnswer, OutcomeRow, write_intents, write_outcomes,
};
use metalbot_store::notice_stale_plan;

/// Rows of one statement at most.
const GROUP: usize = 500;
/// Time for which a row waits for others to be written with it.
const GATHER: Duration = Duration::from_millis(5);
/// A write of outcomes that takes longer is given up, with its connection, and repeated.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Wait before a failed write is repeated.
const RETRY: Duration = Duration::from_millis(500);

/// Handle of the journal for the jobs of one worker.
#[derive(Clone, Debug)]
pub struct Journal {
    intents: mpsc::Sender<Entry<Intent, i64>>,
    outcomes: mpsc::Sender<Entry<OutcomeRow, ()>>,
}

type Entry<T, R> = (T, oneshot::Sender<Result<R, Why>>);
type Answers<R> = sqlx::Result<Vec<Result<R, Why>>>;

impl Journal {
    /// Starts the two writers; they end when the last clone of the journal is dropped.
    pub fn start(pool: PgPool, worker: String, notifier: Arc<Notifier>) -> Self {
        let (intents, intents_in) = mpsc::channel(4 * GROUP);
        let (outcomes, outcomes_in) = mpsc::channel(4 * GROUP);
        let worker: Arc<str> = worker.into();
        let (intent_pool, intent_worker) = (pool.clone(), Arc::clone(&worker));
        let write_intents = move |group: Vec<Intent>| {
            let (pool, worker) = (intent_pool.clone(), Arc::clone(&intent_worker));
            async move {
                let written = write_intents(&pool, &worker, &group).await?;
                reach(Point::JournalIntentWritten);
                let answer = |row: &Intent| match written.get(&row.lease) {
                    Some(IntentAnswer::Written(attempt)) => Ok(*attempt),
                    Some(IntentAnswer::Stopped) => Err(Why::Stopped),
                    None => Err(Why::Lost),
                };
                Ok(group.iter().map(answer).collect())
            }
        };
        // Nothing was done yet: whoever asked can ask again.
        tokio::spawn(run_writer(intents_in, Again::Never, write_intents, |_| None));
        let write_outcomes = move |group: Vec<OutcomeRow>| {
            let (pool, worker, notifier) =
                (pool.clone(), Arc::clone(&worker), Arc::clone(&notifier));
            async move {
                reach(Point::JournalBeforeOutcome);
                let mut written: Vec<LeaseId> = write_outcomes(&pool, &worker, &group).await?;
                reach(Point::JournalOutcomeWritten);
                if group.iter().any(|row| row.job_state.is_ended()) {
                    notifier.work_changed();
                }
                written.sort();
                let ours = |row: &OutcomeRow| written.binary_search(&row.lease).is_ok();
                group.iter().filter(|row| ours(row)).for_each(count_failure);
                Ok(group.iter().map(|row| ours(row).then_some(()).ok_or(Why::Lost)).collect())
            }
        };
        let instead = |row: &OutcomeRow| Some(quarantine(row));
        tokio::spawn(run_writer(outcomes_in, Again::UntilItIsBack, write_outcomes, instead));
        Journal { intents, outcomes }
    }

    /// Returns the attempt's id once the intent is durable. Only then may the caller act.
    pub async fn intent(&self, intent: Intent) -> Result<i64, Why> {
        ask(&self.intents, intent).await
    }

    /// Returns once the outcome is durable.
    pub async fn outcome(&self, outcome: OutcomeRow) -> Result<(), Why> {
        ask(&self.outcomes, outcome).await
    }
}

/// Counts a job whose failure is durable, by the kind of its error.
fn count_failure(row: &OutcomeRow) {
    let error = row.attempt.as_ref().and_then(|attempt| attempt.error.as_ref());
    if let (JobState::Failed | JobState::Quarantined, Some(error)) = (row.job_state, error) {
        metrics::counter!(telemetry::JOBS_FAILED, "kind" => error.kind.as_str()).increment(1);
    }
}

/// Outcome that is written instead of one that the database refuses.
fn quarantine(refused: &OutcomeRow) -> OutcomeRow {
    let message = "the journal refused the outcome: look at the host, then release it";
    let attempt = refused.attempt.as_ref().map(|attempt| AttemptEnd {
        outcome: AttemptOutcome::Unknown,
        error: Some(HostError::new(ErrorKind::JournalRefused, message)),
        ..attempt.clone()
    });
    OutcomeRow {
        attempt,
        job_state: next(JobState::Running, JobEvent::Quarantine)
            .expect("a running job can be quarantined"),
        wake_in: None,
        ..refused.clone()
    }
}

async fn ask<T, R>(to: &mpsc::Sender<Entry<T, R>>, row: T) -> Result<R, Why> {
    let (reply, answer) = oneshot::channel();
    to.send((row, reply)).await.map_err(|_| Why::Late)?;
    answer.await.unwrap_or(Err(Why::Late))
}

/// Whether a write is repeated that the database has not answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    UntilItIsBack,
}

async fn run_writer<T: Clone, R, F>(
    mut entries: mpsc::Receiver<Entry<T, R>>,
    again: Again,
    write: impl Fn(Vec<T>) -> F,
    instead: impl Fn(&T) -> Option<T>,
) where
    F: Future<Output = Answers<R>>,
{
    let mut group = Vec::with_capacity(GROUP);
    while entries.recv_many(&mut group, GROUP).await > 0 {
        tokio::time::sleep(GATHER).await;
        while group.len() < GROUP
            && let Ok(more) = entries.try_recv()
        {
            group.push(more);
        }
        // Whoever has given up waiting is not written for.
        group.retain(|(_, reply)| !reply.is_closed());
        let (rows, replies): (Vec<T>, Vec<_>) = group.drain(..).unzip();
        let answers = write_group(&rows, again, &write, &instead).await;
        for (reply, answer) in replies.into_iter().zip(answers) {
            // A job task that was stopped meanwhile has nobody to answer to.
            let _ = reply.send(answer);
        }
    }
}

/// Writes the rows; halves find those that are refused, and for these alone goes what is written
/// `instead`, if anything.
async fn write_group<T: Clone, R, F>(
    rows: &[T],
    again: Again,
    write: &impl Fn(Vec<T>) -> F,
    instead: &impl Fn(&T) -> Option<T>,
) -> Vec<Result<R, Why>>
where
    F: Future<Output = Answers<R>>,
{
    let mut answers = Vec::with_capacity(rows.len());
    let mut parts = vec![rows];
    while let Some(part) = parts.pop() {
        match (persist(part, again, write).await, part) {
            (_, []) => {}
            (Ok(written), _) => answers.extend(written),
            (Err(NotWritten::Unanswered), part) => {
                answers.extend(part.iter().map(|_| Err(Why::Late)));
            }
            (Err(NotWritten::Refused(error)), [row]) => {
                tracing::error!(%error, "the journal refuses a row");
                if let Some(row) = instead(row)
                    && let Err(NotWritten::Refused(error)) = persist(&[row], again, write).await
                {
                    tracing::error!(%error, "the journal refuses to quarantine a job");
                }
                answers.push(Err(Why::Refused));
            }
            (Err(NotWritten::Refused(_)), part) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
    }
    answers
}

/// Why rows were not written.
enum NotWritten {
    /// By the database, for what they are.
    Refused(sqlx::Error),
    /// The database is away or has not answered.
    Unanswered,
}

/// Writes until the database takes it, or refuses it for what it is, or once.
async fn persist<T: Clone, R, F>(
    rows: &[T],
    again: Again,
    write: &impl Fn(Vec<T>) -> F,
) -> Result<Vec<Result<R, Why>>, NotWritten>
where
    F: Future<Output = Answers<R>>,
{
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let limit = match again {
        Again::Never => ACT_LIFETIME,
        Again::UntilItIsBack => WRITE_LIMIT,
    };
    loop {
        let written = tokio::time::timeout(limit, write(rows.to_vec())).await;
        if let Ok(Err(error)) = &written {
            notice_stale_plan(error);
        }
        match written {
            Ok(Ok(written)) => return Ok(written),
            Ok(Err(error)) if !may_get_better(&error) => return Err(NotWritten::Refused(error)),
            Ok(Err(error)) => {
                tracing::warn!(%error, rows = rows.len(), "the journal cannot be written");
            }
            Err(_) => tracing::warn!(
                rows = rows.len(),
                "the database does not answer, and the journal is not written"
            ),
        }
        if again == Again::Never {
            return Err(NotWritten::Unanswered);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Returns whether the same rows may be taken later: the database is away, busy, starting, read-only for
/// a moment, short of something, or has just been migrated. Everything else is refused for what it is,
/// and would hold up all others if it were tried for ever.
fn may_get_better(error: &sqlx::Error) -> bool {
    match error {
        // PostgreSQL's appendix A: connections, a statement that was planned before a migration, a
        // transaction that is read-only or rolled back, resources, a lock that is not to be had,
        // operators, the system.
        sqlx::Error::Database(error) => error.code().is_none_or(|code| {
            ["08", "0A000", "25", "40", "53", "55", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::TypeNotFound { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalbot_core::domain::ids::{Epoch, JobId};

    const BATCH: &str = "insert into batch (action, risk, plan, digest, submitter, state,
             requirements, origin, platform, channel)
         values ('reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice', 'running',
             '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal');
         insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address, bmc_credentials,
             wave, state, epoch, worker)
         select 1, 'web' || n, 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'running', 1,
             'w'
         from generate_series(1, 9) as n;";

    fn lease(job: i64) -> LeaseId {
        LeaseId { job: JobId(job), epoch: Epoch(1), fence: 0 }
    }

    fn intent(job: i64) -> Intent {
        Intent { lease: lease(job), step: 0, try_number: 1, finishing: false }
    }

    fn failure(job: i64, error: &str) -> OutcomeRow {
        OutcomeRow {
            lease: lease(job),
            attempt: Some(AttemptEnd {
                step: 0,
                try_number: 1,
                began_ago: Duration::ZERO,
                outcome: AttemptOutcome::Failed,
                acted: true,
                error: Some(HostError::new(ErrorKind::BmcRefused, error)),
            }),
            job_state: JobState::Failed,
            step: 0,
            acts_skipped: false,
            wake_in: None,
            news_seen: 0,
            maybe_down: false,
        }
    }

    async fn states(pool: &PgPool) -> Vec<String> {
        let states = "select concat_ws(' ', job.state, job.error_kind, attempt.outcome)
             from job join attempt on job_id = job.id order by job.id";
        sqlx::query_scalar(states).fetch_all(pool).await.unwrap()
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_refused_outcome_quarantines_its_job_and_holds_up_no_other(pool: PgPool) {
        sqlx::raw_sql(BATCH).execute(&pool).await.unwrap();
        sqlx::raw_sql("alter table attempt add check (error not like '%poison%')")
            .execute(&pool)
            .await
            .unwrap();
        let journal = Journal::start(pool.clone(), "w".into(), Arc::default());
        let write = async |job: i64| {
            journal.intent(intent(job)).await?;
            let error = if job % 4 == 0 { "a poison" } else { "fine" };
            journal.outcome(failure(job, error)).await
        };
        let answers = futures_util::future::join_all((1..=9).map(write)).await;
        for (job, answer) in (1..).zip(answers) {
            assert_eq!(answer, if job % 4 == 0 { Err(Why::Refused) } else { Ok(()) }, "job {job}");
        }
        let mut expected = ["failed bmc_refused failed"; 9];
        expected[3] = "quarantined journal_refused unknown";
        expected[7] = expected[3];
        assert_eq!(states(&pool).await, expected);
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_refused_intent_leaves_its_job_to_the_next_worker(pool: PgPool) {
        sqlx::raw_sql(BATCH).execute(&pool).await.unwrap();
        let check = "alter table attempt add check (job_id <> 5)";
        sqlx::raw_sql(check).execute(&pool).await.unwrap();
        let journal = Journal::start(pool.clone(), "w".into(), Arc::default());
        let answers =
            futures_util::future::join_all((1..=9).map(|job| journal.intent(intent(job)))).await;
        for (job, answer) in (1..).zip(answers) {
            assert_eq!(answer.is_err(), job == 5, "job {job}: {answer:?}");
        }
        assert_eq!(states(&pool).await.len(), 8);
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_database_that_may_get_better_refuses_nothing(pool: PgPool) {
        for (statement, refused) in [
            ("select 'x'::int", true),
            ("insert into attempt (job_id) values (1)", true),
            ("select missing from attempt", true),
            ("do $$ begin raise sqlstate '0A000'; end $$", false),
            ("do $$ begin raise sqlstate 'XX000'; end $$", true),
            ("begin read only; delete from attempt", false),
            ("do $$ begin raise sqlstate '57P03'; end $$", false),
            ("do $$ begin raise sqlstate '53100'; end $$", false),
        ] {
            let error = sqlx::raw_sql(statement).execute(&pool).await.unwrap_err();
            assert_eq!(may_get_better(&error), !refused, "{statement}: {error}");
            sqlx::raw_sql("rollback").execute(&pool).await.unwrap();
        }
        pool.close().await;
        let error = sqlx::raw_sql("select 1").execute(&pool).await.unwrap_err();
        assert!(may_get_better(&error), "{error}");
    }
}
