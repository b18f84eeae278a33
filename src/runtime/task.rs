//! Background tasks: one copy of each runs at a time among all replicas, and another process takes
//! over when its owner dies, or when its round stands still.
//!
//! Invariant: a lease is renewed for as long as its round makes progress, and no longer. A round makes
//! progress when something comes that it waits for: an answer, a message, a timer of its own. One in
//! which nothing comes for [`TaskRunner::patience`] is dropped: what it waits for was lost. Rounds need
//! no limit as a whole, however much there is to do, as long as each single wait in them has one.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::task::AtomicWaker;
use metalbot_core::domain::ids::Epoch;
use metalbot_store::task_lease::{claim_task, record_round, task_of};
use metalbot_store::{answered_by, answered_within, notice_stale_plan};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::TASK_FAILURES;

/// Time that a lease lasts; if its owner dies, another process takes over after it.
const LEASE: Duration = Duration::from_secs(2);

/// Time that the database has to answer a question about a lease.
const ANSWER: Duration = Duration::from_secs(5);

/// Shortest time between two notes of a task's rounds in the database.
const RECORD_INTERVAL: Duration = Duration::from_secs(10);

/// Time that a round may still take when the process stops.
pub const LAST_ROUND: Duration = Duration::from_secs(20);

/// Context of all background tasks of a process.
#[derive(Clone, Debug)]
pub struct TaskRunner {
    pub pool: PgPool,
    /// Name of this process, unique among the replicas.
    pub owner: String,
    pub stop: CancellationToken,
    /// Time without progress after which a round is dropped; longer than anything takes that a round
    /// waits for.
    pub patience: Duration,
}

/// The lease of a task that this process has. An act that must not be done by two processes needs a
/// check of [`TaskLease::holds`] right before it, because the process may have been suspended since
/// the round began.
#[derive(Clone, Debug)]
pub struct TaskLease {
    epoch: Epoch,
    stop: CancellationToken,
    /// Time until which the lease certainly is ours, by this process's monotonic clock.
    until: Arc<Mutex<Instant>>,
}

impl TaskLease {
    /// Makes a lease. `asked` is the time just before the database was asked: the lease in the
    /// database begins later, so it cannot end before this one.
    fn new(epoch: Epoch, stop: CancellationToken, asked: Instant) -> TaskLease {
        TaskLease { epoch, stop, until: Arc::new(Mutex::new(asked + LEASE)) }
    }

    /// Returns whether the lease certainly is ours now.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the process stops; a round should then begin nothing new.
    pub fn is_last(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn extend(&self, asked: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + LEASE;
    }
}

/// Runs a task again and again while this process has its lease: when `topic` is notified, and at
/// least every `period`. `name` is that of the lease. `run_once` takes no input but the lease: it reads what there is to do, and
/// returns whether it should run again at once. A round is
/// dropped at its next await if its lease is lost, if it makes no progress, or if it takes more than `LAST_ROUND` after the
/// process was told to stop.
pub async fn run_task<F>(
    runner: TaskRunner,
    name: &str,
    period: Duration,
    topic: Option<&Notify>,
    mut run_once: impl FnMut(TaskLease) -> F,
) where
    F: Future<Output = anyhow::Result<bool>>,
{
    let mut rounds = Rounds { runner: &runner, name, recorded: None };
    let never = Notify::new();
    let topic = topic.unwrap_or(&never);
    while !runner.stop.is_cancelled() {
        // From here on, so that a notification that comes during the round is not missed.
        let notified = topic.notified();
        if rounds.run(&mut run_once).await {
            continue;
        }
        tokio::select! {
            _ = tokio::time::timeout(period, notified) => {}
            () = runner.stop.cancelled() => {}
        }
    }
}

/// The rounds of one task in this process.
struct Rounds<'a> {
    runner: &'a TaskRunner,
    name: &'a str,
    /// When [`record_round`] was last called.
    recorded: Option<Instant>,
}

impl Rounds<'_> {
    /// Runs one round if the lease can be had; returns whether another one should follow at once.
    async fn run<F>(&mut self, run_once: &mut impl FnMut(TaskLease) -> F) -> bool
    where
        F: Future<Output = anyhow::Result<bool>>,
    {
        let asked = Instant::now();
        let claimed = claim_task(&self.runner.pool, self.name, &self.runner.owner, LEASE);
        let lease = match answered_within(ANSWER, claimed).await {
            Ok(Some(epoch)) => TaskLease::new(epoch, self.runner.stop.clone(), asked),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(task = self.name, %error, "cannot lease a background task");
                return false;
            }
        };
        let progress = Arc::new(Progress::new());
        let round = progress.watch(run_once(lease.clone()));
        let stop = &self.runner.stop;
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ROUND).await;
        };
        let ended = tokio::select! {
            ended = round => ended,
            lost = self.keep_lease(&lease, &progress) => Err(lost),
            () = stopped => Err(anyhow!("the round took too long for a process that stops")),
        };
        match ended {
            Ok(again) => {
                self.record().await;
                again
            }
            Err(error) => {
                if let Some(error) = error.downcast_ref::<sqlx::Error>() {
                    notice_stale_plan(error);
                }
                let error = format!("{error:#}");
                tracing::warn!(task = self.name, error, "background task failed");
                let task = task_of(self.name).to_owned();
                metrics::counter!(TASK_FAILURES, "task" => task).increment(1);
                if !progress.stands_still(self.runner.patience) {
                    return false;
                }
                // Another process may be better off: it gets the lease first.
                let others_first = tokio::time::sleep(LEASE);
                let stopped = self.runner.stop.cancelled();
                tokio::select! { () = others_first => {} () = stopped => {} }
                true
            }
        }
    }

    /// Extends the lease while the round makes progress; returns why it cannot be had any longer.
    async fn keep_lease(&mut self, lease: &TaskLease, progress: &Progress) -> anyhow::Error {
        let TaskRunner { pool, owner, patience, .. } = self.runner;
        loop {
            tokio::time::sleep(LEASE / 3).await;
            if progress.stands_still(*patience) {
                return anyhow!("nothing has come for {patience:?} that the round waits for");
            }
            let asked = Instant::now();
            let claimed = claim_task(pool, self.name, owner, LEASE);
            match answered_by(asked + ANSWER, claimed).await {
                Ok(Some(epoch)) if epoch == lease.epoch => {
                    lease.extend(asked);
                    self.record().await;
                }
                Ok(_) => return anyhow!("another process took the lease"),
                Err(error) if !lease.holds() => return error.into(),
                Err(error) => {
                    tracing::warn!(task = self.name, %error, "cannot extend a task's lease");
                }
            }
        }
    }

    /// Notes in the database that the task has a round, at most once every [`RECORD_INTERVAL`].
    async fn record(&mut self) {
        if self.recorded.is_some_and(|at| at.elapsed() < RECORD_INTERVAL) {
            return;
        }
        match answered_within(ANSWER, record_round(&self.runner.pool, self.name)).await {
            Ok(()) => self.recorded = Some(Instant::now()),
            Err(error) => {
                tracing::debug!(task = self.name, %error, "cannot record a round of a task");
            }
        }
    }
}

/// When a round last went on. The round itself says nothing about it: whatever wakes it is progress.
struct Progress {
    at: Mutex<Instant>,
    /// Wakes the task that the round runs in.
    task: AtomicWaker,
}

impl Progress {
    fn new() -> Progress {
        Progress { at: Mutex::new(Instant::now()), task: AtomicWaker::new() }
    }

    /// Runs the round, and notes what wakes it.
    async fn watch<T>(self: &Arc<Self>, round: impl Future<Output = T>) -> T {
        let mut round = pin!(round);
        let waker = Waker::from(Arc::clone(self));
        std::future::poll_fn(|context| {
            self.task.register(context.waker());
            round.as_mut().poll(&mut Context::from_waker(&waker))
        })
        .await
    }

    fn stands_still(&self, patience: Duration) -> bool {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= patience
    }
}

impl Wake for Progress {
    fn wake(self: Arc<Self>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn runner(pool: &PgPool, patience: Duration) -> TaskRunner {
        let stop = CancellationToken::new();
        TaskRunner { pool: pool.clone(), owner: "a".into(), stop, patience }
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_round_that_lost_its_lease_is_dropped(pool: PgPool) {
        let runner = runner(&pool, PERIOD);
        let (stolen, ending) = (pool.clone(), runner.stop.clone());
        let round = move |lease: TaskLease| {
            let (pool, stop) = (stolen.clone(), ending.clone());
            async move {
                assert!(lease.holds());
                stop.cancel();
                sqlx::query("update task_lease set owner = 'b', epoch = epoch + 1")
                    .execute(&pool)
                    .await?;
                std::future::pending().await
            }
        };
        let rounds = run_task(runner, "t", PERIOD, None, round);
        tokio::time::timeout(LEASE, rounds).await.expect("it would hang for ever");
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_round_that_stands_still_is_begun_anew(pool: PgPool) {
        let runner = runner(&pool, LEASE);
        let stop = runner.stop.clone();
        let mut begun = 0;
        let rounds = run_task(runner, "t", PERIOD, None, |_| {
            begun += 1;
            let (first, stop) = (begun == 1, stop.clone());
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                stop.cancel();
                Ok(false)
            }
        });
        tokio::time::timeout(PERIOD, rounds).await.expect("it would hang for ever");
        assert_eq!(begun, 2);
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_long_round_that_goes_on_is_let_alone(pool: PgPool) {
        let runner = runner(&pool, LEASE);
        let stop = runner.stop.clone();
        let mut begun = 0;
        let rounds = run_task(runner, "t", PERIOD, None, |lease| {
            begun += 1;
            let stop = stop.clone();
            async move {
                for _ in 0..30 {
                    tokio::time::sleep(LEASE / 10).await;
                }
                assert!(lease.holds());
                stop.cancel();
                Ok(false)
            }
        });
        tokio::time::timeout(PERIOD, rounds).await.expect("it ends");
        assert_eq!(begun, 1);
    }
}
