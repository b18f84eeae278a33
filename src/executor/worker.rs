//! Leases jobs and keeps the leases alive while their tasks run.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Executor;
use super::attempt::run_job;
use super::journal::Journal;
use super::lease_clock::LeaseClock;
use super::recall::Recall;
use crate::failpoint::{Point, reach};
use crate::runtime::notifier::Notifier;
use crate::telemetry;
use metalbot_core::domain::ids::{BatchId, Epoch, JobId};
use metalbot_core::domain::workflow::Plan;
use metalbot_store::notifier::Topic;
use metalbot_store::{batch, lease};

/// Period of the worker when nothing wakes it.
const POLL: Duration = Duration::from_millis(500);
/// Wait for further jobs to end before new ones are leased: a lease costs the database as much as
/// some ten jobs do.
const GATHER: Duration = Duration::from_millis(25);
/// Plans kept in memory; more than this many running batches read theirs again.
const PLANS: usize = 256;

/// A lease that a task of this process works under.
struct Mine {
    batch: BatchId,
    epoch: Epoch,
    clock: Arc<LeaseClock>,
    recall: Arc<Recall>,
    /// Ends the task when the lease is lost.
    lost: CancellationToken,
}

/// Guard that removes the lease from the list when its task ends in any way: a lease without a task
/// must end.
struct Entry {
    leases: Leases,
    job: JobId,
    epoch: Epoch,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut leases = lock(&self.leases);
        if leases.get(&self.job).is_some_and(|mine| mine.epoch == self.epoch) {
            leases.remove(&self.job);
        }
    }
}

impl Mine {
    fn lose(&self) {
        self.clock.revoke();
        self.lost.cancel();
    }
}

type Leases = Arc<Mutex<HashMap<JobId, Mine>>>;

/// Works until it is stopped, then lets running steps finish for as long as the drain allows and
/// hands the rest over.
pub async fn run_worker(executor: Executor, notifier: Arc<Notifier>, stop: CancellationToken) {
    let journal =
        Journal::start(executor.pool.clone(), executor.worker.clone(), Arc::clone(&notifier));
    let leases = Leases::default();
    let heart = tokio::spawn(run_heartbeat(executor.clone(), Arc::clone(&leases)));
    let recall = run_recall(executor.clone(), Arc::clone(&leases), Arc::clone(&notifier));
    let recall = tokio::spawn(recall);
    let mut plans = HashMap::new();
    let mut tasks = JoinSet::new();
    while !stop.is_cancelled() {
        let notified = notifier.topic(Topic::Work).notified();
        let free = executor.limits.max_in_flight.saturating_sub(tasks.len());
        if free > 0
            && let Err(error) =
                start_jobs(&executor, &journal, &leases, &mut plans, &mut tasks, free, &stop).await
        {
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
    let late = drained.await.is_err();
    heart.abort();
    recall.abort();
    if late {
        tracing::warn!(
            jobs = tasks.len(),
            "steps are still running at the end of the drain: their jobs are handed over"
        );
        lock(&leases).values().for_each(Mine::lose);
        tasks.shutdown().await;
    }
    match lease::give_up(&executor.pool, &executor.worker).await {
        Ok(jobs) => tracing::info!(jobs, "jobs were handed over to other workers"),
        Err(error) => tracing::warn!(%error, "jobs were not handed over: their leases will end"),
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        // The lease ends, and the next worker finds the intent without an outcome.
        tracing::error!(%error, "a job's task panicked");
    }
}

async fn start_jobs(
    executor: &Executor,
    journal: &Journal,
    leases: &Leases,
    plans: &mut HashMap<BatchId, Arc<Plan>>,
    tasks: &mut JoinSet<()>,
    at_most: usize,
    stop: &CancellationToken,
) -> sqlx::Result<()> {
    let asked = Instant::now();
    let limits = executor.limits;
    // One limit for the whole round: its leases run meanwhile, and a stop of the process waits for it.
    let deadline = asked + patience(executor);
    let taken = lease::take(&executor.pool, &executor.worker, at_most, limits.lease);
    // Jobs that are leased after all, by a statement that was given up, are taken when that lease ends.
    let leased = answered_by(deadline, taken).await?;
    if !leased.is_empty() {
        reach(Point::LeaseTaken);
    }
    for leased in leased {
        let plan = plan_of(executor, plans, leased.batch);
        let plan = match answered_by(deadline, plan).await {
            Ok(plan) => plan,
            Err(error) => {
                // Its lease runs out, and a worker that can read the plan takes it.
                tracing::error!(batch = %leased.batch, %error, "the plan of a batch cannot be read: its job is left to another worker");
                continue;
            }
        };
        let clock = Arc::new(LeaseClock::new(asked + limits.lease));
        let recall = Arc::new(Recall::new(leased.touched || leased.open_attempt.is_some()));
        let lost = CancellationToken::new();
        let mine = Mine {
            batch: leased.batch,
            epoch: leased.epoch,
            clock: Arc::clone(&clock),
            recall: Arc::clone(&recall),
            lost: lost.clone(),
        };
        // After an outage of the database the job may be our own of before.
        if let Some(before) = lock(leases).insert(leased.job, mine) {
            before.lose();
        }
        let job = leased.job;
        let entry = Entry { leases: Arc::clone(leases), job, epoch: leased.epoch };
        let (executor, journal, stop) = (executor.clone(), journal.clone(), stop.clone());
        let work = run_job(executor, journal, plan, leased, clock, recall, stop);
        tasks.spawn(async move {
            let _entry = entry;
            tokio::select! {
                () = work => {}
                () = lost.cancelled() => tracing::warn!(%job, "the lease of a running job is lost: its task is ended"),
            }
        });
    }
    Ok(())
}

/// Recalls the jobs of batches that do not run any more, for as long as tasks run: a person who stops
/// a batch is heard while jobs are leased, and while the process drains.
async fn run_recall(executor: Executor, leases: Leases, notifier: Arc<Notifier>) {
    loop {
        let notified = notifier.topic(Topic::Work).notified();
        let deadline = Instant::now() + patience(&executor);
        let recalled = recall_stopped(&executor.pool, &leases);
        if let Err(error) = answered_by(deadline, recalled).await {
            tracing::warn!(%error, "stopped batches cannot be read from the database");
        }
        let _ = tokio::time::timeout(POLL, notified).await;
    }
}

async fn recall_stopped(pool: &PgPool, leases: &Leases) -> sqlx::Result<()> {
    let open = |mine: &&Mine| !mine.recall.is_asked();
    let batches: BTreeSet<BatchId> =
        lock(leases).values().filter(open).map(|mine| mine.batch).collect();
    if batches.is_empty() {
        return Ok(());
    }
    let stopped = batch::stopped(pool, &batches).await?;
    lock(leases)
        .values()
        .filter(open)
        .filter(|mine| stopped.contains(&mine.batch))
        .for_each(|mine| mine.recall.ask());
    Ok(())
}

async fn plan_of(
    executor: &Executor,
    plans: &mut HashMap<BatchId, Arc<Plan>>,
    id: BatchId,
) -> sqlx::Result<Arc<Plan>> {
    if let Some(plan) = plans.get(&id) {
        return Ok(Arc::clone(plan));
    }
    let batch = batch::get(&mut *executor.pool.acquire().await?, id).await?;
    let plan = Arc::new(batch.ok_or(sqlx::Error::RowNotFound)?.plan);
    if plans.len() >= PLANS {
        plans.clear();
    }
    plans.insert(id, Arc::clone(&plan));
    Ok(plan)
}

/// Extends all leases of this process in one statement, three times in the length of a lease.
async fn run_heartbeat(executor: Executor, leases: Leases) {
    let limits = executor.limits;
    loop {
        tokio::time::sleep(limits.lease / 3).await;
        let jobs: Vec<(JobId, Epoch)> =
            lock(&leases).iter().map(|(job, mine)| (*job, mine.epoch)).collect();
        if jobs.is_empty() {
            continue;
        }
        let asked = Instant::now();
        let beat = lease::heartbeat(&executor.pool, &executor.worker, &jobs, limits.lease);
        match answered_by(asked + patience(&executor), beat).await {
            Ok(kept) => {
                let kept: HashSet<JobId> = kept.into_iter().collect();
                let leases = lock(&leases);
                for (job, epoch) in jobs {
                    // A task that ended meanwhile has left the map.
                    let Some(mine) = leases.get(&job).filter(|mine| mine.epoch == epoch) else {
                        continue;
                    };
                    if kept.contains(&job) {
                        mine.clock.extend(asked + limits.lease);
                    } else {
                        mine.lose();
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "leases were not extended"),
        }
    }
}

/// Time that the database has to answer: a connection that has gone silent must cost neither the leases
/// nor a person's stop.
fn patience(executor: &Executor) -> Duration {
    executor.limits.lease / 3
}

/// Gives an answer of the database up at the deadline. One that needs no waiting is there even later.
async fn answered_by<T>(
    deadline: Instant,
    answer: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    tokio::time::timeout_at(deadline, answer).await.unwrap_or_else(|_| {
        let late = "the database has not answered in time";
        Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, late)))
    })
}

fn lock(leases: &Leases) -> std::sync::MutexGuard<'_, HashMap<JobId, Mine>> {
    leases.lock().unwrap_or_else(PoisonError::into_inner)
}
