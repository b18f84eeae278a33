//! Groups the journal's writes: the intents, and the outcomes, of many jobs go in one statement.
//!
//! A write that meets a database that is away is repeated until it is back. That is safe: rows are
//! written only for jobs whose epoch still stands, and a caller that hears [`Stale`] does not act.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use crate::domain::ids::JobId;
use crate::store::attempt::{Intent, Outcome, write_intents, write_outcomes};

/// Rows of one statement at most.
const GROUP: usize = 500;
/// How long a row waits for others to go with it.
const GATHER: Duration = Duration::from_millis(2);
/// A write that takes longer is given up, with its connection, and repeated.
const SILENCE: Duration = Duration::from_secs(10);
/// Wait before a failed write is repeated.
const RETRY: Duration = Duration::from_millis(500);

/// The job is another worker's by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the lease of this job is lost")]
pub struct Stale;

/// The way to the journal for the jobs of one worker.
#[derive(Clone, Debug)]
pub struct Journal {
    intents: mpsc::Sender<Entry<Intent, i64>>,
    outcomes: mpsc::Sender<Entry<Outcome, ()>>,
}

type Entry<T, R> = (T, oneshot::Sender<Result<R, Stale>>);

impl Journal {
    /// Starts the two writers; they end when the last clone of the journal is dropped.
    pub fn start(pool: PgPool, worker: String) -> Self {
        let (intents, intents_in) = mpsc::channel(4 * GROUP);
        let (outcomes, outcomes_in) = mpsc::channel(4 * GROUP);
        let (intent_pool, intent_worker) = (pool.clone(), worker.clone());
        tokio::spawn(run_writer(intents_in, move |group: Vec<Intent>| {
            let (pool, worker) = (intent_pool.clone(), intent_worker.clone());
            async move {
                let written = write_intents(&pool, &worker, &group).await?;
                Ok(group.iter().map(|row| written.get(&row.job).copied().ok_or(Stale)).collect())
            }
        }));
        tokio::spawn(run_writer(outcomes_in, move |group: Vec<Outcome>| {
            let (pool, worker) = (pool.clone(), worker.clone());
            async move {
                let mut written: Vec<JobId> = write_outcomes(&pool, &worker, &group).await?;
                written.sort();
                let ours = |row: &Outcome| written.binary_search(&row.job).map(drop);
                Ok(group.iter().map(|row| ours(row).map_err(|_| Stale)).collect())
            }
        }));
        Journal { intents, outcomes }
    }

    /// Returns the attempt's id once the intent is durable. Only then may the caller act.
    pub async fn intent(&self, intent: Intent) -> Result<i64, Stale> {
        ask(&self.intents, intent).await
    }

    /// Returns once the outcome is durable.
    pub async fn outcome(&self, outcome: Outcome) -> Result<(), Stale> {
        ask(&self.outcomes, outcome).await
    }
}

async fn ask<T, R>(to: &mpsc::Sender<Entry<T, R>>, row: T) -> Result<R, Stale> {
    let (reply, answer) = oneshot::channel();
    to.send((row, reply)).await.map_err(|_| Stale)?;
    answer.await.unwrap_or(Err(Stale))
}

async fn run_writer<T: Clone, R, F>(
    mut entries: mpsc::Receiver<Entry<T, R>>,
    write: impl Fn(Vec<T>) -> F,
) where
    F: Future<Output = sqlx::Result<Vec<Result<R, Stale>>>>,
{
    let mut group = Vec::with_capacity(GROUP);
    while entries.recv_many(&mut group, GROUP).await > 0 {
        tokio::time::sleep(GATHER).await;
        while group.len() < GROUP
            && let Ok(more) = entries.try_recv()
        {
            group.push(more);
        }
        let (rows, replies): (Vec<T>, Vec<_>) = group.drain(..).unzip();
        let answers = loop {
            match tokio::time::timeout(SILENCE, write(rows.clone())).await {
                Ok(Ok(answers)) => break answers,
                Ok(Err(error)) => {
                    tracing::warn!(%error, rows = rows.len(), "the journal cannot be written");
                }
                Err(_) => tracing::warn!(rows = rows.len(), "the journal's database is silent"),
            }
            tokio::time::sleep(RETRY).await;
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // A job task that was stopped meanwhile has nobody to answer to.
            let _ = reply.send(answer);
        }
    }
}
