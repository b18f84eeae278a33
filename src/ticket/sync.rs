//! Reads what became of the tickets of one site, and tells the people who wait for it: one that is
//! done has its hosts looked at by [`super::recheck`], one that nobody will mend marks them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, PgTransaction};

use super::jira::{Category, IssueState, Site};
use crate::domain::host::HostName;
use crate::domain::ids::{BatchId, TicketId};
use crate::domain::notice::{Audience, Notice};
use crate::domain::triage::{Act, Standing, TicketPolicy};
use crate::store::share::Share;
use crate::store::task::Turn;
use crate::store::ticket::MoveTo;
use crate::store::ticket_host::{self, HurtHost};
use crate::store::ticket_look::{self, Ended, Seen};
use crate::store::{self, card, mark, outbox, ticket};

/// How often it is seen whether something is due.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Tickets asked about in one request.
const PAGE: i64 = 50;

/// What the task works with.
#[derive(Clone)]
pub struct TicketSync {
    pub pool: PgPool,
    pub site: Site,
    /// What is at the site, and perhaps what is nowhere.
    pub share: Share,
    pub policy: TicketPolicy,
}

impl TicketSync {
    /// Reads one page of tickets; `true` when there are more.
    pub async fn round(self: Arc<Self>, turn: Turn) -> anyhow::Result<bool> {
        let (every, after) = (self.policy.look_every, self.policy.reopen);
        let page = ticket_look::due(&self.pool, &self.share, every, after, PAGE).await?;
        let more = page.len() as i64 == PAGE;
        let ours = |seen: &Seen| seen.site.as_deref().is_none_or(|site| site == self.site.name());
        let (page, lost): (Vec<Seen>, Vec<Seen>) = page.into_iter().partition(ours);
        self.skip(&lost).await?;
        if page.is_empty() {
            return Ok(more);
        }
        let keys: Vec<String> = page.iter().map(|seen| seen.key.clone()).collect();
        let states = match self.site.states(&keys).await {
            Ok(states) => states,
            Err(error) => {
                tracing::warn!(site = self.site.name(), %error, "cannot read the tickets' states");
                self.skip(&page).await?;
                return Ok(false);
            }
        };
        for before in page {
            if turn.is_last() {
                return Ok(true);
            }
            let state = states.iter().find(|state| state.key == before.key);
            if let Err(error) = self.saw(&before, state).await {
                // One that this version cannot read must not hold up the others.
                let error = format!("{error:#}");
                tracing::error!(ticket = before.key, error, "cannot follow a ticket");
                self.skip(&[before]).await?;
            }
        }
        Ok(more)
    }

    async fn skip(&self, tickets: &[Seen]) -> sqlx::Result<()> {
        let ids: Vec<TicketId> = tickets.iter().map(|seen| seen.id).collect();
        ticket_look::skip(&self.pool, &ids).await
    }

    async fn saw(&self, before: &Seen, state: Option<&IssueState>) -> anyhow::Result<()> {
        let mut now = match state {
            Some(state) => self.seen(before, state),
            // A new one may not be in Jira's search yet.
            None if before.status.is_none() => {
                return Ok(ticket_look::skip(&self.pool, &[before.id]).await?);
            }
            None => Seen { ended: Some(Ended::Gone), ..before.clone() },
        };
        let mut ends = now.ended.filter(|ended| before.ended != Some(*ended));
        let again = ends == Some(Ended::Done) && self.failed_again(before, state);
        if again {
            (now.ended, ends) = (None, None);
        }
        let mut tx = self.pool.begin().await?;
        let Some(moment) = ticket_look::saw(&mut tx, before, &now).await? else { return Ok(()) };
        if again {
            ticket::ask_move(&mut tx, before.id, MoveTo::Open).await?;
        }
        if now != *before {
            ticket::touch_cards(&mut tx, before.id).await?;
        }
        match ends {
            Some(Ended::Declined) => mark::set(&mut tx, before.id).await?,
            _ if before.ended == Some(Ended::Declined) && now.ended != before.ended => {
                mark::clear_of(&mut tx, before.id).await?;
            }
            _ => {}
        }
        if ends == Some(Ended::Declined) {
            self.tell_declined(&mut tx, &now, moment.unix_timestamp_nanos()).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Whether a host has failed after somebody closed the ticket and before it was seen that they
    /// did: it was put onto a ticket that was thought to be open. By Jira's clock and ours.
    fn failed_again(&self, before: &Seen, state: Option<&IssueState>) -> bool {
        let closed_at = state.and_then(|state| state.resolved_at);
        let reopens = self.policy.act(Standing::Done { since: Duration::ZERO }) == Act::Reopen;
        reopens && closed_at.is_some_and(|closed_at| before.last_failed_at > closed_at)
    }

    fn seen(&self, before: &Seen, state: &IssueState) -> Seen {
        let declined = |name: &str| {
            self.policy.wont_fix.iter().any(|word| word.eq_ignore_ascii_case(name.trim()))
        };
        let ended = match state.category {
            Category::Done if declined(state.resolution.as_deref().unwrap_or(&state.status)) => {
                Some(Ended::Declined)
            }
            Category::Done => Some(Ended::Done),
            Category::New | Category::InProgress => None,
        };
        let (key, url) = match &state.moved_to {
            Some(key) => (key.clone(), before.url.replace(&before.key, key)),
            None => (before.key.clone(), before.url.clone()),
        };
        Seen {
            key,
            url,
            status: Some(state.status.clone()),
            resolution: state.resolution.clone(),
            assignee: state.assignee.clone(),
            ended,
            ..before.clone()
        }
    }

    async fn tell_declined(
        &self,
        tx: &mut PgTransaction<'_>,
        ticket: &Seen,
        moment: i128,
    ) -> anyhow::Result<()> {
        let resolution = ticket.resolution.clone().or_else(|| ticket.status.clone());
        let hurt = ticket_host::hosts(&mut *tx, ticket.id).await?;
        for (id, hosts) in still_hurt(hurt) {
            let Some(batch) = store::batch::get(&mut *tx, id).await? else { continue };
            let notice = Notice::TicketDeclined {
                batch: batch.id,
                submitter: batch.submitter,
                key: ticket.key.clone(),
                url: ticket.url.clone(),
                resolution: resolution.clone().unwrap_or_default(),
                hosts,
            };
            let name = ended_key(ticket.id, batch.id, moment);
            let audience = Audience::Thread { batch: batch.id };
            outbox::notice(&mut *tx, &name, &audience, &notice).await?;
            card::touch(&mut *tx, batch.id).await?;
        }
        Ok(())
    }
}

/// Hosts of a ticket that have not succeeded since, by the batch in which they failed last.
pub(super) fn still_hurt(hosts: Vec<HurtHost>) -> BTreeMap<BatchId, Vec<HostName>> {
    let mut by_batch: BTreeMap<BatchId, Vec<HostName>> = BTreeMap::new();
    for host in hosts.into_iter().filter(|host| !host.mended) {
        by_batch.entry(host.batch).or_default().push(host.failure.host);
    }
    by_batch
}

/// Names the notice of a ticket's end at a moment to a batch.
pub(super) fn ended_key(ticket: TicketId, batch: BatchId, moment: i128) -> String {
    format!("ticket:{ticket}:ended:{}:{moment}", batch.0)
}
