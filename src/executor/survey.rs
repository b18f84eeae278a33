//! Asks every BMC once in a while who it is: tickets say which vendor and firmware failing hosts
//! have in common, also of BMCs that are silent by then.
//!
//! The whole inventory is walked in slow steps, so that neither the BMCs nor the client feel it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sqlx::PgPool;
use tokio::time::timeout;

use super::FindHost;
use crate::bmc::Bmc;
use crate::domain::host::{BmcIdentity, HostName};
use crate::store::bmc_identity;

/// How often a few are asked.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Hosts that a round looks for those to be asked.
const SLICE: usize = 1_000;
/// Most BMCs asked in one round.
const MOST: usize = 50;
/// How long a round waits for one; the round waits for the slowest.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the task works with.
pub struct Survey {
    pool: PgPool,
    bmc: Arc<dyn Bmc>,
    find_host: FindHost,
    hosts: Vec<HostName>,
    every: Duration,
    next: AtomicUsize,
}

impl Survey {
    /// Each of these hosts is asked once in `every`.
    pub fn new(
        pool: PgPool,
        bmc: Arc<dyn Bmc>,
        find_host: FindHost,
        hosts: Vec<HostName>,
        every: Duration,
    ) -> Survey {
        Survey { pool, bmc, find_host, hosts, every, next: AtomicUsize::new(0) }
    }

    /// Asks the next few.
    pub async fn round(self: Arc<Self>) -> anyhow::Result<bool> {
        let from = self.next.load(Ordering::Relaxed);
        let slice = &self.hosts[from..self.hosts.len().min(from + SLICE)];
        let due = bmc_identity::due(&self.pool, slice, self.every).await?;
        let all = due.len() <= self.pace();
        let asks = due.into_iter().take(self.pace()).map(|name| self.ask(name));
        let answers: Vec<_> = stream::iter(asks).buffer_unordered(MOST).collect().await;
        if !answers.is_empty() {
            bmc_identity::keep(&self.pool, &answers).await?;
        }
        if all {
            let end = from + slice.len();
            self.next.store(if end < self.hosts.len() { end } else { 0 }, Ordering::Relaxed);
        }
        Ok(false)
    }

    /// Four times as many as it takes to ask each of them in time: silent ones delay a round.
    fn pace(&self) -> usize {
        let seconds = usize::try_from(self.every.as_secs()).unwrap_or(usize::MAX).max(1);
        (self.hosts.len() * 4 / seconds).clamp(1, MOST)
    }

    async fn ask(&self, name: HostName) -> (HostName, Option<BmcIdentity>) {
        let said = match (self.find_host)(&name) {
            Some(host) => timeout(PATIENCE, self.bmc.device_info(&host)).await,
            None => return (name, None),
        };
        match said {
            Ok(Ok(info)) => return (name, Some(info.identity())),
            Ok(Err(error)) => {
                tracing::debug!(host = %name, %error, "its BMC does not say who it is")
            }
            Err(_) => tracing::debug!(host = %name, "its BMC does not answer in time"),
        }
        (name, None)
    }
}
