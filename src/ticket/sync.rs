//! Reads what became of tickets, and tells the people who wait for it: a ticket that is done has
//! its hosts looked at, one that nobody will mend marks them, and one whose hosts have all succeeded
//! gets a closing comment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use sqlx::{PgPool, PgTransaction};

use super::comment::Comment;
use super::jira::{Category, IssueState, Site};
use crate::domain::host::HostName;
use crate::domain::ids::{BatchId, TicketId};
use crate::domain::notice::{Audience, Notice};
use crate::domain::triage::TicketPolicy;
use crate::store::task::Turn;
use crate::store::ticket::MoveTo;
use crate::store::ticket_host::HurtHost;
use crate::store::ticket_look::{self, Ended, Seen};
use crate::store::{self, card, job, mark, outbox, ticket, ticket_host};

/// How often it is seen whether something is due.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Tickets asked about in one request.
const PAGE: i64 = 50;
/// Hosts looked at at the same time.
const PARALLEL: usize = 32;

/// Looks at a host without touching it: whether its BMC answers and tells the power state.
pub type CheckHost = Arc<dyn Fn(HostName) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What the task works with.
#[derive(Clone)]
pub struct TicketSync {
    pub pool: PgPool,
    /// The default one first.
    pub sites: Vec<Site>,
    pub policy: TicketPolicy,
    pub check_host: CheckHost,
}

impl TicketSync {
    /// Reads one page of tickets; `true` when there are more.
    pub async fn round(&self, turn: Turn) -> anyhow::Result<bool> {
        self.close_mended().await?;
        let (every, after) = (self.policy.look_every, self.policy.reopen);
        let page = ticket_look::due(&self.pool, every, after, PAGE).await?;
        let more = page.len() as i64 == PAGE;
        let mut by_site: BTreeMap<Option<String>, Vec<Seen>> = BTreeMap::new();
        for seen in page {
            by_site.entry(seen.site.clone()).or_default().push(seen);
        }
        for (name, page) in by_site {
            let ids: Vec<TicketId> = page.iter().map(|seen| seen.id).collect();
            let found = match &name {
                Some(name) => self.sites.iter().find(|site| site.name() == name),
                None => self.sites.first(),
            };
            let Some(site) = found else {
                ticket_look::skip(&self.pool, &ids).await?;
                continue;
            };
            let keys: Vec<String> = page.iter().map(|seen| seen.key.clone()).collect();
            let states = match site.states(&keys).await {
                Ok(states) => states,
                Err(error) => {
                    tracing::warn!(site = site.name(), %error, "cannot read the tickets' states");
                    ticket_look::skip(&self.pool, &ids).await?;
                    continue;
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
                    ticket_look::skip(&self.pool, &[before.id]).await?;
                }
            }
        }
        Ok(more)
    }

    async fn saw(&self, before: &Seen, state: Option<&IssueState>) -> anyhow::Result<()> {
        let now = match state {
            Some(state) => self.seen(before, state),
            // A new one may not be in Jira's search yet.
            None if before.status.is_none() => {
                return Ok(ticket_look::skip(&self.pool, &[before.id]).await?);
            }
            None => Seen { ended: Some(Ended::Gone), ..before.clone() },
        };
        let ends = now.ended.filter(|ended| before.ended != Some(*ended));
        let mut hurt = Vec::new();
        if ends.is_some() {
            let mut conn = self.pool.acquire().await?;
            hurt = ticket_host::hosts(&mut conn, before.id).await?;
            hurt.retain(|host| !host.mended);
        }
        let looks = match ends {
            Some(Ended::Done) => self.look_at(&hurt).await,
            _ => BTreeMap::new(),
        };
        let mut tx = self.pool.begin().await?;
        let Some(moment) = ticket_look::saw(&mut tx, before, &now).await? else { return Ok(()) };
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
        if let Some(ended) = ends {
            let moment = moment.unix_timestamp_nanos();
            self.tell(&mut tx, &now, ended, &hurt, &looks, moment).await?;
        }
        tx.commit().await?;
        Ok(())
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

    /// What each host's BMC says; nothing where it is well.
    async fn look_at(&self, hurt: &[HurtHost]) -> BTreeMap<HostName, String> {
        let names: BTreeSet<HostName> = hurt.iter().map(|host| host.failure.host.clone()).collect();
        let looks = names.into_iter().map(|host| async move {
            let problem = (self.check_host)(host.clone()).await.err()?;
            Some((host, problem))
        });
        stream::iter(looks)
            .buffer_unordered(PARALLEL)
            .filter_map(|found| async { found })
            .collect()
            .await
    }

    async fn tell(
        &self,
        tx: &mut PgTransaction<'_>,
        ticket: &Seen,
        ended: Ended,
        hurt: &[HurtHost],
        problems: &BTreeMap<HostName, String>,
        moment: i128,
    ) -> anyhow::Result<()> {
        let mut by_batch: BTreeMap<BatchId, Vec<HostName>> = BTreeMap::new();
        for host in hurt {
            by_batch.entry(host.batch).or_default().push(host.failure.host.clone());
        }
        for (id, hosts) in by_batch {
            let Some(batch) = store::batch::get(&mut *tx, id).await? else { continue };
            let (batch, submitter) = (batch.id, batch.submitter);
            let (key, url) = (ticket.key.clone(), ticket.url.clone());
            let notice = match ended {
                Ended::Done => {
                    let (silent, answering): (Vec<_>, Vec<_>) =
                        hosts.into_iter().partition(|host| problems.contains_key(host));
                    let problem = silent.first().and_then(|host| problems.get(host)).cloned();
                    let retry = job::any_failed(&mut *tx, batch, &answering).await?;
                    Notice::TicketDone {
                        batch,
                        submitter,
                        key,
                        url,
                        answering,
                        silent,
                        problem,
                        retry,
                    }
                }
                Ended::Declined => {
                    let resolution = ticket.resolution.clone().or_else(|| ticket.status.clone());
                    let resolution = resolution.unwrap_or_default();
                    Notice::TicketDeclined { batch, submitter, key, url, resolution, hosts }
                }
                // Whoever deleted it knows; the next failure gets a new one.
                Ended::Gone => continue,
            };
            let name = format!("ticket:{}:ended:{}:{moment}", ticket.id, batch.0);
            outbox::notice(&mut *tx, &name, &Audience::Thread { batch }, &notice).await?;
            card::touch(&mut *tx, batch).await?;
        }
        Ok(())
    }

    /// Finds hosts that have succeeded since. A ticket without any other gets a comment, and is
    /// closed where the policy says so.
    async fn close_mended(&self) -> anyhow::Result<()> {
        let mut tx = self.pool.begin().await?;
        let mut by_ticket: BTreeMap<TicketId, Vec<(HostName, BatchId)>> = BTreeMap::new();
        for (ticket, host, batch) in ticket_host::find_mended(&mut tx).await? {
            by_ticket.entry(ticket).or_default().push((host, batch));
        }
        for (ticket, found) in by_ticket {
            let hosts: Vec<HostName> = found.iter().map(|(host, _)| host.clone()).collect();
            mark::clear(&mut tx, &hosts).await?;
            ticket::touch_cards(&mut tx, ticket).await?;
            if !ticket_host::all_mended(&mut tx, ticket).await? {
                continue;
            }
            let batches: BTreeSet<BatchId> = found.iter().map(|(_, batch)| *batch).collect();
            let all = ticket_host::hosts(&mut tx, ticket).await?;
            let hosts = all.into_iter().map(|host| host.failure.host).collect();
            let comment = Comment::Mended { batches: batches.into_iter().collect(), hosts };
            comment.queue(&mut tx, ticket).await?;
            if !self.policy.close_by.is_empty() && ticket::is_open(&mut tx, ticket).await? {
                ticket::ask_move(&mut tx, ticket, MoveTo::Closed).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }
}
