//! Asks every BMC once in a while who it is: tickets say which vendor and firmware failing hosts
//! have in common, also of BMCs that are silent by then.
//!
//! The whole inventory, as far as this process reaches it, is walked in slow steps, so that neither the
//! BMCs nor the client feel it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sqlx::PgPool;
use tokio::time::timeout;

use crate::bmc::Bmc;
use metalbot_core::domain::host::{BmcIdentity, HostName, Hosts};
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_store::bmc_identity;

/// Period of the rounds, each of which asks a few.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Hosts that a round looks for those to be asked.
const SLICE: usize = 1_000;
/// Most BMCs asked in one round.
const MOST: usize = 50;
/// Time limit for one answer; a round waits for the slowest.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// Parts of the task, and how far it has come.
pub struct Survey {
    pool: PgPool,
    bmc: Arc<dyn Bmc>,
    hosts: Arc<dyn Hosts>,
    reachable: ReachableDatacenters,
    every: Duration,
    /// Hosts of this pass over the fleet, and how many of them are done.
    under_way: Mutex<(Arc<[HostName]>, usize)>,
}

impl Survey {
    /// Makes a survey in which each host is asked once in `every`.
    pub fn new(
        pool: PgPool,
        bmc: Arc<dyn Bmc>,
        hosts: Arc<dyn Hosts>,
        reachable: ReachableDatacenters,
        every: Duration,
    ) -> Survey {
        Survey { pool, bmc, hosts, reachable, every, under_way: Mutex::default() }
    }

    /// All hosts whose BMCs this process reaches.
    fn reachable_hosts(&self) -> Vec<HostName> {
        let mut names = self.hosts.names();
        if self.reachable != ReachableDatacenters::ALL {
            let there = |name: &HostName| self.hosts.host(name).map(|host| host.datacenter);
            names.retain(|name| there(name).is_some_and(|dc| self.reachable.contains(&dc)));
        }
        names
    }

    /// Asks the next few.
    pub async fn run_once(self: Arc<Self>) -> anyhow::Result<bool> {
        let (hosts, from) = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (hosts, from) =
            if from < hosts.len() { (hosts, from) } else { (self.reachable_hosts().into(), 0) };
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
        let said = match self.hosts.host(&name) {
            Some(host) => timeout(TIME_LIMIT, self.bmc.device_info(&host)).await,
            None => return (name, None),
        };
        match said {
            Ok(Ok(info)) => return (name, Some(crate::bmc::identity(&info))),
            Ok(Err(error)) => {
                tracing::debug!(host = %name, %error, "a BMC refuses to say its vendor and firmware")
            }
            Err(_) => {
                tracing::debug!(host = %name, "a BMC does not answer in time when asked for its vendor and firmware")
            }
        }
        (name, None)
    }
}
