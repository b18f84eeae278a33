//! Finds hosts of tickets that have succeeded since they failed. The ticket's text says so; a ticket
//! whose hosts have all succeeded gets a closing comment, and is closed where the policy wants that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, PgTransaction};

use super::comment::Comment;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, TicketId};
use metalbot_core::domain::triage::TicketPolicy;
use metalbot_store::ticket::TicketTransition;
use metalbot_store::{host_wont_fix, ticket, ticket_host};

/// Period of the task. Nobody waits for it.
pub const PERIOD: Duration = Duration::from_secs(5);

/// Parts of the task.
#[derive(Clone, Debug)]
pub struct TicketResolver {
    pub pool: PgPool,
    pub policy: TicketPolicy,
}

impl TicketResolver {
    /// Resolves what has succeeded; `false`, since one round finds all.
    pub async fn run_once(self: Arc<Self>) -> anyhow::Result<bool> {
        let mut tx = self.pool.begin().await?;
        let mut by_ticket: BTreeMap<TicketId, Vec<(HostName, BatchId)>> = BTreeMap::new();
        for (ticket, host, batch) in ticket_host::find_resolved(&mut tx).await? {
            by_ticket.entry(ticket).or_default().push((host, batch));
        }
        for (ticket, found) in by_ticket {
            self.resolved(&mut tx, ticket, found).await?;
        }
        tx.commit().await?;
        Ok(false)
    }

    async fn resolved(
        &self,
        tx: &mut PgTransaction<'_>,
        ticket: TicketId,
        found: Vec<(HostName, BatchId)>,
    ) -> sqlx::Result<()> {
        let hosts: Vec<HostName> = found.iter().map(|(host, _)| host.clone()).collect();
        host_wont_fix::clear(&mut *tx, &hosts).await?;
        ticket::rewrite(&mut *tx, ticket).await?;
        ticket::touch_cards(&mut *tx, ticket).await?;
        if !ticket_host::all_resolved(&mut *tx, ticket).await? {
            return Ok(());
        }
        let batches: BTreeSet<BatchId> = found.iter().map(|(_, batch)| *batch).collect();
        let all = ticket_host::hosts(&mut *tx, ticket).await?;
        let hosts = all.into_iter().map(|host| host.failure.host).collect();
        let comment = Comment::Resolved { batches: batches.into_iter().collect(), hosts };
        comment.queue(&mut *tx, ticket).await?;
        if !self.policy.close_by.is_empty() && ticket::is_open(&mut *tx, ticket).await? {
            ticket::request_transition(&mut *tx, ticket, TicketTransition::Closed).await?;
        }
        Ok(())
    }
}
