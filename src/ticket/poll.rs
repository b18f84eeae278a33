//! Polls the states of the tickets of one site. The hosts of a ticket that is done are checked by
//! [`super::verify`]; those of one that nobody will fix are marked, and their people notified.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, PgTransaction};

use crate::runtime::task::TaskLease;
use metalbot_core::domain::event::EventBody;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, TicketId};
use metalbot_core::domain::triage::{Standing, TicketPolicy, TicketUpdate};
use metalbot_jira::{Category, IssueState, Site};
use metalbot_store::relay_scope::RelayScope;
use metalbot_store::ticket::TicketTransition;
use metalbot_store::ticket_host::{self, FailedHost};
use metalbot_store::ticket_poll::{self, ClosedAs, PolledTicket};
use metalbot_store::{self as store, card, host_wont_fix, outbox, ticket};

/// Period of the task.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Tickets asked about in one request.
const PAGE: i64 = 50;

/// Parts of the task for one site.
#[derive(Clone)]
pub struct TicketPoller {
    pub pool: PgPool,
    pub site: Site,
    /// This site and perhaps those that are not configured.
    pub scope: RelayScope,
    pub policy: TicketPolicy,
}

impl TicketPoller {
    /// Reads one page of tickets; `true` when there are more.
    pub async fn run_once(self: Arc<Self>, lease: TaskLease) -> anyhow::Result<bool> {
        let (every, after) = (self.policy.poll_interval, self.policy.reopen_within);
        let page = ticket_poll::due(&self.pool, &self.scope, every, after, PAGE).await?;
        let more = page.len() as i64 == PAGE;
        let ours = |seen: &PolledTicket| seen.site == self.site.name();
        let (page, lost): (Vec<PolledTicket>, Vec<PolledTicket>) = page.into_iter().partition(ours);
        self.skip(&lost).await?;
        if page.is_empty() {
            return Ok(more);
        }
        let keys: Vec<String> = page.iter().map(|seen| seen.key.clone()).collect();
        let states = match self.site.states(&keys).await {
            Ok(states) => states,
            Err(error) => {
                tracing::warn!(site = self.site.name(), %error, "the states of tickets cannot be read from Jira");
                self.skip(&page).await?;
                return Ok(false);
            }
        };
        for before in page {
            if lease.is_last() {
                return Ok(true);
            }
            let state = states.iter().find(|state| state.key == before.key);
            if let Err(error) = self.saw(&before, state).await {
                // One that this version cannot read must not delay the others.
                tracing::error!(ticket = before.key, %error, "a ticket's state cannot be followed");
                self.skip(&[before]).await?;
            }
        }
        Ok(more)
    }

    async fn skip(&self, tickets: &[PolledTicket]) -> sqlx::Result<()> {
        let ids: Vec<TicketId> = tickets.iter().map(|seen| seen.id).collect();
        ticket_poll::skip(&self.pool, &ids).await
    }

    async fn saw(&self, before: &PolledTicket, state: Option<&IssueState>) -> sqlx::Result<()> {
        let mut now = match state {
            Some(state) => self.seen(before, state),
            // A new one may not be in Jira's search yet.
            None if before.status.is_none() => {
                return ticket_poll::skip(&self.pool, &[before.id]).await;
            }
            None => PolledTicket { closed_as: Some(ClosedAs::Gone), ..before.clone() },
        };
        let mut ends = now.closed_as.filter(|closed_as| before.closed_as != Some(*closed_as));
        let again = ends == Some(ClosedAs::Done) && self.failed_again(before, state);
        if again {
            (now.closed_as, ends) = (None, None);
        }
        let mut tx = self.pool.begin().await?;
        let Some(moment) = ticket_poll::saw(&mut tx, before, &now).await? else { return Ok(()) };
        if again {
            ticket::request_transition(&mut tx, before.id, TicketTransition::Open).await?;
        }
        if now != *before {
            ticket::touch_cards(&mut tx, before.id).await?;
        }
        match ends {
            Some(ClosedAs::Declined) => host_wont_fix::set(&mut tx, before.id).await?,
            _ if before.closed_as == Some(ClosedAs::Declined)
                && now.closed_as != before.closed_as =>
            {
                host_wont_fix::clear_of(&mut tx, before.id).await?;
            }
            _ => {}
        }
        if ends == Some(ClosedAs::Declined) {
            self.notify_declined(&mut tx, &now, moment.unix_timestamp_nanos()).await?;
        }
        tx.commit().await
    }

    /// Returns whether a host has failed after somebody closed the ticket and before it was seen that they
    /// did: it was put onto a ticket that was thought to be open. By Jira's clock and ours.
    fn failed_again(&self, before: &PolledTicket, state: Option<&IssueState>) -> bool {
        let closed_at = state.and_then(|state| state.resolved_at);
        let reopens =
            self.policy.act(Standing::Done { since: Duration::ZERO }) == TicketUpdate::Reopen;
        reopens && closed_at.is_some_and(|closed_at| before.last_failed_at > closed_at)
    }

    fn seen(&self, before: &PolledTicket, state: &IssueState) -> PolledTicket {
        let declined = |name: &str| {
            self.policy.wont_fix.iter().any(|word| word.eq_ignore_ascii_case(name.trim()))
        };
        let closed_as = match state.category {
            Category::Done if declined(state.resolution.as_deref().unwrap_or(&state.status)) => {
                Some(ClosedAs::Declined)
            }
            Category::Done => Some(ClosedAs::Done),
            Category::New | Category::InProgress => None,
        };
        let (key, url) = match &state.moved_to {
            Some(key) => (key.clone(), before.url.replace(&before.key, key)),
            None => (before.key.clone(), before.url.clone()),
        };
        PolledTicket {
            key,
            url,
            status: Some(state.status.clone()),
            resolution: state.resolution.clone(),
            assignee: state.assignee.clone(),
            closed_as,
            ..before.clone()
        }
    }

    async fn notify_declined(
        &self,
        tx: &mut PgTransaction<'_>,
        ticket: &PolledTicket,
        moment: i128,
    ) -> sqlx::Result<()> {
        let resolution = ticket.resolution.clone().or_else(|| ticket.status.clone());
        let hosts = ticket_host::hosts(&mut *tx, ticket.id).await?;
        for (id, hosts) in unresolved(hosts) {
            let Some(batch) = store::batch::get(&mut *tx, id).await? else { continue };
            let body = EventBody::TicketDeclined {
                submitter: batch.submitter,
                key: ticket.key.clone(),
                url: ticket.url.clone(),
                resolution: resolution.clone().unwrap_or_default(),
                hosts,
            };
            let name = closed_key(ticket.id, batch.id, moment);
            outbox::event(&mut *tx, &name, batch.id, body).await?;
            card::touch(&mut *tx, batch.id).await?;
        }
        Ok(())
    }
}

/// Hosts of a ticket that have not succeeded since, by the batch in which they failed last.
pub(super) fn unresolved(hosts: Vec<FailedHost>) -> BTreeMap<BatchId, Vec<HostName>> {
    by_batch(hosts.into_iter().filter(|host| !host.resolved))
}

pub(super) fn by_batch(
    hosts: impl IntoIterator<Item = FailedHost>,
) -> BTreeMap<BatchId, Vec<HostName>> {
    let mut by_batch: BTreeMap<BatchId, Vec<HostName>> = BTreeMap::new();
    for host in hosts {
        by_batch.entry(host.batch).or_default().push(host.failure.host);
    }
    by_batch
}

/// Names the notice of a ticket's end at a moment to a batch.
pub(super) fn closed_key(ticket: TicketId, batch: BatchId, moment: i128) -> String {
    format!("ticket:{ticket}:closed:{}:{moment}", batch.0)
}
