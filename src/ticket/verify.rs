//! Verifies the hosts of tickets that somebody has closed as done, and notifies the people who wait
//! for them: which hosts answer again and can be retried, and which do not. Each process verifies those
//! of the datacenters that it reaches; where a ticket spans several, people hear of each part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use sqlx::PgPool;

use super::poll::{by_batch, closed_key};
use crate::runtime::task::TaskLease;
use metalbot_core::domain::error_kind::{ErrorClass, HostError};
use metalbot_core::domain::event::EventBody;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_core::domain::workflow::PowerIs;
use metalbot_store::ticket_poll::{self, TicketToVerify};
use metalbot_store::{self as store, caps, card, job, outbox, ticket_host};

/// Period of the task.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Tickets read at once.
const PAGE: i64 = 20;
/// Hosts that are checked at the same time.
const PARALLEL: usize = 64;

/// Checks that a host's BMC answers, and returns the power state. Never writes. The error says why
/// the host does not pass.
pub type CheckHost =
    Arc<dyn Fn(HostName) -> BoxFuture<'static, Result<PowerIs, HostError>> + Send + Sync>;

/// Parts of the task.
#[derive(Clone)]
pub struct HostVerifier {
    pub pool: PgPool,
    pub check_host: CheckHost,
    pub reachable: ReachableDatacenters,
}

impl HostVerifier {
    /// Verifies the hosts of one page of tickets; `true` when there are more.
    pub async fn run_once(self: Arc<Self>, lease: TaskLease) -> anyhow::Result<bool> {
        let page = ticket_poll::to_verify(&self.pool, &self.reachable, PAGE).await?;
        for one in &page {
            if lease.is_last() {
                return Ok(true);
            }
            if let Err(error) = self.verify(one).await {
                tracing::error!(ticket = one.key, %error, "the hosts of a ticket cannot be verified");
            }
        }
        Ok(page.len() as i64 == PAGE)
    }

    async fn verify(&self, one: &TicketToVerify) -> sqlx::Result<()> {
        let mut conn = self.pool.acquire().await?;
        let mut hosts = ticket_host::hosts(&mut conn, one.ticket).await?;
        let looked_at = store::now(&mut conn).await?;
        drop(conn);
        hosts.retain(|host| !host.resolved && !one.verified.contains(&host.failure.datacenter));
        let all = hosts.len();
        hosts.retain(|host| self.reachable.contains(&host.failure.datacenter));
        let part = self.reachable.names().filter(|_| hosts.len() < all);
        let datacenters: BTreeSet<String> =
            hosts.iter().map(|host| host.failure.datacenter.clone()).collect();
        let by_batch = by_batch(hosts);
        let (on, problems) = self.check_all(by_batch.values().flatten()).await;
        if let Some(error) = problems.values().find(|error| error.kind.class() == ErrorClass::Own) {
            tracing::error!(ticket = one.key, %error, "the hosts of a ticket cannot be verified");
            return Ok(());
        }
        let mut tx = self.pool.begin().await?;
        if !ticket_poll::verified(&mut tx, one, part).await? {
            return Ok(());
        }
        caps::seen_on(&mut tx, &on, looked_at).await?;
        for (id, hosts) in by_batch {
            let Some(batch) = store::batch::get(&mut tx, id).await? else { continue };
            let (silent, answering): (Vec<_>, Vec<_>) =
                hosts.into_iter().partition(|host| problems.contains_key(host));
            let problem = silent.first().and_then(|host| problems.get(host));
            let problem = problem.map(|error| error.message.clone());
            let body = EventBody::TicketResolved {
                submitter: batch.submitter,
                key: one.key.clone(),
                url: one.url.clone(),
                retry: job::any_failed(&mut tx, batch.id, &answering).await?,
                answering,
                silent,
                problem,
            };
            let mut name = closed_key(one.ticket, batch.id, one.since.unix_timestamp_nanos());
            if part.is_some() || !one.verified.is_empty() {
                // Each part has a notice of its own.
                let names: Vec<&str> = datacenters.iter().map(String::as_str).collect();
                name = format!("{name}:{}", names.join(","));
            }
            outbox::event(&mut tx, &name, batch.id, body).await?;
            card::touch(&mut tx, batch.id).await?;
        }
        tx.commit().await
    }

    /// Returns the hosts that are on, and the errors of those that do not pass the check.
    async fn check_all(
        &self,
        hosts: impl Iterator<Item = &HostName>,
    ) -> (Vec<HostName>, BTreeMap<HostName, HostError>) {
        let checks = hosts.cloned().map(|host| async move {
            let found = (self.check_host)(host.clone()).await;
            (host, found)
        });
        let mut checked = stream::iter(checks).buffer_unordered(PARALLEL);
        let (mut on, mut problems) = (Vec::new(), BTreeMap::new());
        while let Some((host, found)) = checked.next().await {
            match found {
                Ok(PowerIs::On) => on.push(host),
                Ok(PowerIs::Off) => {}
                Err(error) => {
                    problems.insert(host, error);
                }
            }
        }
        (on, problems)
    }
}
