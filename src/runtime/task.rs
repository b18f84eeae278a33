//! Background tasks: one copy of each runs at a time among all replicas, and another process takes
//! over when its owner dies.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metalbot_core::domain::ids::Epoch;
use metalbot_store::task_lease::{claim_task, record_round};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::TASK_FAILURES;

/// Time that a lease lasts; if its owner dies, another process takes over after it.
const LEASE: Duration = Duration::from_secs(2);

/// Shortest time between two notes of a task's rounds in the database.
const RECORD_INTERVAL: Duration = Duration::from_secs(10);

/// Time that a round may still take when the process stops.
const LAST_ROUND: Duration = Duration::from_secs(20);

/// Context of all background tasks of a process.
#[derive(Clone, Debug)]
pub struct TaskRunner {
    pub pool: PgPool,
    /// Name of this process, unique among the replicas.
    pub owner: String,
    pub stop: CancellationToken,
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
/// least every `period`. `run_once` takes no input but the lease: it reads what there is to do, and
/// returns whether it should run again at once. A round is
/// dropped at its next await if its lease is lost, or if it takes more than `LAST_ROUND` after the
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
    while !runner.stop.is_cancelled() {
        let notified = async {
            match topic {
                Some(topic) => topic.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(notified);
        // A notification that comes during the round must not be missed.
        let _ = futures_util::poll!(&mut notified);
        if rounds.run(&mut run_once).await {
            continue;
        }
        tokio::select! {
            _ = tokio::time::timeout(period, &mut notified) => {}
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
        let lease = match claim_task(&self.runner.pool, self.name, &self.runner.owner, LEASE).await
        {
            Ok(Some(epoch)) => TaskLease::new(epoch, self.runner.stop.clone(), asked),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(task = self.name, %error, "cannot lease a background task");
                return false;
            }
        };
        let round = run_once(lease.clone());
        match self.keep_lease(&lease, round).await {
            Ok(again) => {
                self.record().await;
                again
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(task = self.name, error, "background task failed");
                metrics::counter!(TASK_FAILURES, "task" => self.name.to_owned()).increment(1);
                false
            }
        }
    }

    /// Extends the lease for as long as the round goes on.
    async fn keep_lease(
        &mut self,
        lease: &TaskLease,
        round: impl Future<Output = anyhow::Result<bool>>,
    ) -> anyhow::Result<bool> {
        let TaskRunner { pool, owner, stop } = self.runner;
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ROUND).await;
        };
        tokio::pin!(round, stopped);
        loop {
            tokio::select! {
                ended = &mut round => return ended,
                () = &mut stopped => {
                    anyhow::bail!("the round took too long for a process that stops")
                }
                () = tokio::time::sleep(LEASE / 3) => {}
            }
            let asked = Instant::now();
            match claim_task(pool, self.name, owner, LEASE).await {
                Ok(Some(epoch)) if epoch == lease.epoch => {
                    lease.extend(asked);
                    self.record().await;
                }
                Ok(_) => anyhow::bail!("another process took the lease"),
                Err(error) if !lease.holds() => return Err(error.into()),
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
        match record_round(&self.runner.pool, self.name).await {
            Ok(()) => self.recorded = Some(Instant::now()),
            Err(error) => {
                tracing::debug!(task = self.name, %error, "cannot record a round of a task");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_round_that_lost_its_lease_is_dropped(pool: PgPool) {
        let stop = CancellationToken::new();
        let runner = TaskRunner { pool: pool.clone(), owner: "a".into(), stop: stop.clone() };
        let (stolen, ending) = (pool.clone(), stop.clone());
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
}
