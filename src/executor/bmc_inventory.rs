//! Asks every BMC once in a while who it is: tickets say which vendor and firmware failing hosts
//! have in common, also of BMCs that are silent by then.
//!
//! The whole inventory is walked in slow steps, so that neither the BMCs nor the client feel it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sqlx::PgPool;
use tokio::time::timeout;

use super::FindHost;
use crate::bmc::Bmc;
use metalbot_core::domain::host::{BmcIdentity, HostName};
use metalbot_store::bmc_identity;

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
    all_hosts: AllHosts,
    every: Duration,
    /// The hosts of this way through the fleet, and how many are done with.
    under_way: Mutex<(Arc<[HostName]>, usize)>,
}

/// The hosts of today's inventory.
type AllHosts = Box<dyn Fn() -> Vec<HostName> + Send + Sync>;

impl Survey {
    /// Each of these hosts is asked once in `every`.
    pub fn new(
        pool: PgPool,
        bmc: Arc<dyn Bmc>,
        find_host: FindHost,
        all_hosts: AllHosts,
        every: Duration,
    ) -> Survey {
        Survey { pool, bmc, find_host, all_hosts, every, under_way: Mutex::default() }
    }

    /// Asks the next few.
    pub async fn run_once(self: Arc<Self>) -> anyhow::Result<bool> {
        let (hosts, from) = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (hosts, from) =
            if from < hosts.len() { (hosts, from) } else { ((self.all_hosts)().into(), 0) };
        let slice = &hosts[from..hosts.len().min(from + SLICE)];
        let due = bmc_identity::due(&self.pool, slice, self.every).await?;
        let pace = self.pace(hosts.len());
        let all = due.len() <= pace;
        let asks = due.into_iter().take(pace).map(|name| self.ask(name));
        let answers: Vec<_> = stream::iter(asks).buffer_unordered(MOST).collect().await;
        if !answers.is_empty() {
            bmc_identity::keep(&self.pool, &answers).await?;
        }
        let done = if all { from + slice.len() } else { from };
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = (hosts, done);
        Ok(false)
    }

    /// Four times as many as it takes to ask each of them in time: silent ones delay a round.
    fn pace(&self, hosts: usize) -> usize {
        let seconds = usize::try_from(self.every.as_secs()).unwrap_or(usize::MAX).max(1);
        (hosts * 4 / seconds).clamp(1, MOST)
    }

    async fn ask(&self, name: HostName) -> (HostName, Option<BmcIdentity>) {
        let said = match (self.find_host)(&name) {
            Some(host) => timeout(PATIENCE, self.bmc.device_info(&host)).await,
            None => return (name, None),
        };
        match said {
            Ok(Ok(info)) => return (name, Some(crate::bmc::identity(&info))),
            Ok(Err(error)) => {
                tracing::debug!(host = %name, %error, "its BMC does not say who it is")
            }
            Err(_) => tracing::debug!(host = %name, "its BMC does not answer in time"),
        }
        (name, None)
    }
}
