//! What the BMC's own log says when a job has failed, kept with the job for people and tickets.
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
/// How long reading may take, with the wait for others.
const PATIENCE: Duration = Duration::from_secs(10);

/// The room for reading logs; all jobs of a worker share it.
#[derive(Clone, Debug)]
pub struct LogReading(Arc<Semaphore>);

impl Default for LogReading {
    fn default() -> Self {
        LogReading(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// Kinds of errors after which the BMC cannot be expected to answer.
const AWAY: [&str; 8] = [
    "bmc_unreachable",
    "bmc_busy",
    "bmc_credentials",
    "bmc_privilege",
    "bmc_cipher",
    "misconfigured",
    "unknown_host",
    "inventory_changed",
];

/// Starts to read the log of a host whose job has just failed, where its BMC should answer.
pub fn start_reading(executor: &Executor, failed: &Leased, kind: ErrorKind) {
    let Some(host) = (executor.find_host)(&failed.host).filter(|_| !AWAY.contains(&kind.as_str()))
    else {
        return;
    };
    let (executor, job) = (executor.clone(), failed.job);
    tokio::spawn(async move {
        let read = async {
            let LogReading(room) = &executor.log_reading;
            let _room = room.acquire().await.ok()?;
            match executor.bmc.events(&host, LAST).await {
                Ok(events) => Some(events),
                Err(error) => {
                    tracing::debug!(host = %host.name, %error, "the BMC's log was not read");
                    None
                }
            }
        };
        let Ok(Some(events)) = timeout(PATIENCE, read).await else { return };
        let lines: Vec<String> = events.iter().map(ToString::to_string).collect();
        if let Err(error) = job::keep_bmc_events(&executor.pool, job, &lines).await {
            tracing::warn!(host = %host.name, %error, "what the BMC's log says was not kept");
        }
    });
}
