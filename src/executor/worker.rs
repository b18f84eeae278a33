//! A worker: one loop leases jobs, one says that the worker is there and hears what has become of its
//! jobs, and at the end what is under way is finished or handed over. Each round of both is bounded, so
//! that a database that has gone silent keeps neither from its next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Executor;
use super::hold::{Hold, Holds};
use super::job_end::{end_later, end_unreadable};
use super::job_run::{WorkerContext, run_job};
use super::journal::Journal;
use crate::failpoint::{Point, reach};
use crate::runtime::notifier::Notifier;
use crate::telemetry;
use metalbot_core::domain::ids::{BatchId, JobId};
use metalbot_core::domain::workflow::Plan;
use metalbot_store::notifier::Topic;
use metalbot_store::{answered_by, batch, lease};

/// Period of the worker when nothing wakes it.
const POLL: Duration = Duration::from_millis(500);
/// Wait for further jobs to end before new ones are leased: a lease costs the database as much as
/// some ten jobs do.
const GATHER: Duration = Duration::from_millis(25);
/// Longest time between two beats, in which a stop of a batch is heard that nobody notified of.
const BEAT: Duration = Duration::from_secs(1);
/// Shortest time between two beats.
const LEAST_BEAT: Duration = Duration::from_millis(200);
/// Jobs that are held for each call of a BMC that may be under way: some wait for a moment.
const HELD_PER_CALL: usize = 2;
/// Plans kept in memory; more than this many running batches read theirs again.
const PLANS: usize = 256;

/// Works until it is stopped, then lets acts that are under way finish for as long as the drain allows
/// and hands the rest over.
pub async fn run_worker(executor: Executor, notifier: Arc<Notifier>, stop: CancellationToken) {
    let holds = Holds::default();
    let journal =
        Journal::start(executor.pool.clone(), executor.worker.clone(), Arc::clone(&notifier));
    let beats = tokio::spawn(run_beats(executor.clone(), holds.clone(), Arc::clone(&notifier)));
    let calls = Arc::new(Semaphore::new(executor.limits.max_in_flight));
    let shared = WorkerContext { executor: executor.clone(), calls, draining: stop.clone() };
    let mut taking =
        Taking { shared, journal, holds: holds.clone(), plans: HashMap::new(), looked: None };
    let mut tasks = JoinSet::new();
    while !stop.is_cancelled() {
        let notified = notifier.topic(Topic::Work).notified();
        if let Err(error) = taking.take(&mut tasks).await {
            tracing::warn!(%error, "jobs cannot be leased from the database");
        }
        metrics::gauge!(telemetry::JOBS_RUNNING).set(tasks.len() as f64);
        tokio::select! {
            _ = tokio::time::timeout(POLL, notified) => {}
            Some(ended) = tasks.join_next() => {
                report(ended);
                // Jobs that end together are followed by one lease of many.
                tokio::time::sleep(GATHER).await;
                while let Some(ended) = tasks.try_join_next() {
                    report(ended);
                }
            }
            () = stop.cancelled() => {}
        }
    }
    let drained = tokio::time::timeout(executor.limits.drain, async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            jobs = tasks.len(),
            "steps are still running at the end of the drain, and their jobs are handed over"
        );
        holds.abandon();
        tasks.shutdown().await;
    }
    beats.abort();
    let retired = lease::retire(&executor.pool, &executor.worker);
    match answered_by(Instant::now() + patience(&executor), retired).await {
        Ok(jobs) => tracing::info!(jobs, "jobs were handed over to other workers"),
        Err(error) => {
            tracing::warn!(%error, "jobs were not handed over: they are taken over when the lease ends");
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        // Its hold was dropped, so the next round of leasing frees the job.
        tracing::error!(%error, "a job's task panicked");
    }
}

/// Takes jobs and starts their tasks.
struct Taking {
    shared: WorkerContext,
    journal: Journal,
    holds: Holds,
    plans: HashMap<BatchId, Arc<Plan>>,
    /// When jobs were last looked for that this worker has and does not hold.
    looked: Option<Instant>,
}

impl Taking {
    async fn take(&mut self, tasks: &mut JoinSet<()>) -> sqlx::Result<()> {
        let executor = &self.shared.executor;
        let most = executor.limits.max_in_flight * HELD_PER_CALL;
        let held = self.holds.ids();
        let free = most.saturating_sub(held.len());
        if free == 0 {
            return Ok(());
        }
        let held: Vec<JobId> = held.into_iter().map(|id| id.job).collect();
        let looks = self.looked.is_none_or(|looked| looked.elapsed() >= BEAT);
        // One limit for the whole round: a stop of the process waits for it. Jobs that are leased after
        // all, by a statement that was given up, are freed by the next.
        let deadline = Instant::now() + patience(executor);
        let taken = lease::take(
            &executor.pool,
            &executor.worker,
            &executor.reachable,
            looks.then_some(&held[..]),
            free,
        );
        let leased = answered_by(deadline, taken).await?;
        if looks {
            self.looked = Some(Instant::now());
        }
        if !leased.is_empty() {
            reach(Point::LeaseTaken);
        }
        for leased in leased {
            let batch = leased.batch;
            let hold = self.holds.hold(leased, &self.journal);
            match answered_by(deadline, self.plan_of(batch)).await {
                Ok(plan) => _ = tasks.spawn(run_job(self.shared.clone(), plan, hold)),
                Err(error) => self.leave(tasks, hold, error),
            }
        }
        Ok(())
    }

    /// Ends a job whose plan was not read: for good if it cannot be, else for now.
    fn leave(&self, tasks: &mut JoinSet<()>, hold: Hold, error: sqlx::Error) {
        let batch = hold.leased.batch;
        tracing::error!(%batch, %error, "the plan of a batch cannot be read");
        match error {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::RowNotFound => {
                tasks.spawn(async move { end_unreadable(hold, &error.to_string()).await });
            }
            _ => _ = tasks.spawn(end_later(hold)),
        }
    }

    async fn plan_of(&mut self, id: BatchId) -> sqlx::Result<Arc<Plan>> {
        if let Some(plan) = self.plans.get(&id) {
            return Ok(Arc::clone(plan));
        }
        let batch = batch::get(&mut *self.shared.executor.pool.acquire().await?, id).await?;
        let plan = Arc::new(batch.ok_or(sqlx::Error::RowNotFound)?.plan);
        if self.plans.len() >= PLANS {
            self.plans.clear();
        }
        self.plans.insert(id, Arc::clone(&plan));
        Ok(plan)
    }
}

/// Says that this worker is there, and passes on what the database says of its jobs: which are lost, and
/// whose batches people have stopped. Also while the process drains.
async fn run_beats(executor: Executor, holds: Holds, notifier: Arc<Notifier>) {
    let period = BEAT.min(executor.limits.lease / 3);
    loop {
        let notified = notifier.topic(Topic::Work).notified();
        let held = holds.ids();
        let Executor { pool, worker, reachable, limits, .. } = &executor;
        let beat = lease::beat(pool, worker, reachable, &held, limits.lease);
        match answered_by(Instant::now() + patience(&executor), beat).await {
            Ok(told) => holds.tell(&held, &told),
            Err(error) => tracing::warn!(%error, "this worker cannot say that it is there"),
        }
        tokio::time::sleep(LEAST_BEAT).await;
        let _ = tokio::time::timeout(period.saturating_sub(LEAST_BEAT), notified).await;
    }
}

/// Time that the database has to answer: a connection that has gone silent must cost neither the leases
/// nor a person's stop.
fn patience(executor: &Executor) -> Duration {
    executor.limits.lease / 3
}
