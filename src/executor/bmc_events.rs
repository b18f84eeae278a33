//! The last entries of a BMC's own event log when a job has failed, kept with the job for people and
//! tickets.
//!
//! Best effort: it begins when the outcome is durable, and neither delays nor changes it. Few logs
//! are read at a time, so that a failure of many hosts does not take the BMC client from those that
//! are at work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Executor;
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_store::job;
use metalbot_store::lease::Leased;

/// Entries that are kept.
const LAST: usize = 5;
/// Logs that are read at a time.
const AT_ONCE: usize = 32;
/// Longest time for reading one log, with the wait for others.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Limit of logs that are read at a time; all jobs of a worker share it.
#[derive(Clone, Debug)]
pub struct LogReading(Arc<Semaphore>);

impl Default for LogReading {
    fn default() -> Self {
        LogReading(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// Starts to read the log of a host whose job has just failed, where its BMC should answer.
pub fn start_reading(executor: &Executor, failed: &Leased, kind: ErrorKind) {
    if !kind.bmc_answers() {
        return;
    }
    let Some(host) = executor.hosts.host(&failed.host) else { return };
    let (executor, job) = (executor.clone(), failed.id.job);
    tokio::spawn(async move {
        let read = async {
            let LogReading(permits) = &executor.log_reading;
            let _permit = permits.acquire().await.ok()?;
            match executor.bmc.events(&host, LAST).await {
                Ok(events) => Some(events),
                Err(error) => {
                    tracing::debug!(host = %host.name, %error, "the BMC's event log was not read");
                    None
                }
            }
        };
        let Ok(Some(events)) = timeout(TIME_LIMIT, read).await else { return };
        let lines: Vec<String> = events.iter().map(ToString::to_string).collect();
        if let Err(error) = job::keep_bmc_events(&executor.pool, job, &lines).await {
            tracing::warn!(host = %host.name, %error, "the entries of a BMC's event log were not kept");
        }
    });
}
