//! Writes tickets to one Jira site. Nothing else waits for Jira: while it is away tickets are late, and are
//! filed once and in their order when it is back.
//!
//! Creating is not idempotent in Jira, and its search may lag behind. So a create is marked in the
//! database before it is sent. One whose answer was lost, or that a dead process may have sent, is a
//! doubt: the ticket's own label is searched for, again and again, until
//! [`TicketPolicy::create_confirm_timeout`] is over; only then it is sent again. There is exactly one ticket, provided that Jira carries out a
//! create and shows it in a search within that time. A comment of unknown outcome is not repeated:
//! the ticket's text says all that it says.
//!
//! A process that stood still before a create has lost its lease, and creates nothing.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::comment::Comment;
use super::facts::TicketFacts;
use super::filing::Filed;
use super::people::{Accounts, Concerned};
use super::render::{TicketTemplateError, TicketTemplates};
use crate::runtime::task::TaskLease;
use metalbot_core::domain::event::{Event, EventBody};
use metalbot_core::domain::host::Hosts;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::people::People;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::triage::{TicketPolicy, TicketTarget};
use metalbot_jira::{Body, Category, IssueChange, JiraError, Site};
use metalbot_store::card::permalinks;
use metalbot_store::relay_scope::RelayScope;
use metalbot_store::ticket::TicketTransition;
use metalbot_store::ticket_work::{self, Work};
use metalbot_store::{audit, outbox, ticket, ticket_host};

/// Period of the relay when nothing wakes it.
pub const PERIOD: Duration = Duration::from_secs(1);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Wait after a refusal, in which somebody may correct Jira or the configuration.
const REFUSED_WAIT: Duration = Duration::from_secs(3600);
/// Tickets of one round.
const PAGE: i64 = 20;

/// Parts of the relay to one site.
pub struct TicketRelay {
    pub pool: PgPool,
    pub site: Site,
    /// This site and perhaps those that are not configured.
    pub scope: RelayScope,
    /// TicketTarget of a ticket that its own target does not take.
    pub default: TicketTarget,
    pub policy: TicketPolicy,
    pub templates: Arc<TicketTemplates>,
    pub people: Arc<dyn People>,
    pub hosts: Arc<dyn Hosts>,
    /// Address of the console, without a trailing slash.
    pub public_url: String,
    pub accounts: Accounts,
}

/// Reason why a ticket is not written yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    #[error(transparent)]
    Jira(#[from] JiraError),
    /// A create may or may not have happened; the ticket is looked for again after this time.
    #[error("it is not known whether Jira has filed the ticket; looking for it")]
    Doubt(Duration),
    /// Another process may have the task's lease by now.
    #[error("the lease of the task was lost")]
    LeaseLost,
    #[error(transparent)]
    Database(sqlx::Error),
    #[error(transparent)]
    Ticket(#[from] TicketProblem),
}

/// Problem of one ticket, which delays no other: as it is stored and configured, it cannot be
/// written.
#[derive(Debug, thiserror::Error)]
pub(super) enum TicketProblem {
    #[error("no Jira site {0:?} is configured")]
    UnknownSite(String),
    #[error("a stored ticket cannot be read: {0}")]
    Unreadable(sqlx::Error),
    #[error("a stored comment cannot be read: {0}")]
    Comment(serde_json::Error),
    #[error("the stored value of the field {field} cannot be read: {cause}")]
    Field { field: String, cause: serde_json::Error },
    #[error(transparent)]
    Template(#[from] TicketTemplateError),
}

impl From<sqlx::Error> for RelayError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                TicketProblem::Unreadable(error).into()
            }
            error => RelayError::Database(error),
        }
    }
}

impl TicketRelay {
    /// Writes to Jira what is due; `true` when there may be more.
    pub async fn run_once(self: Arc<Self>, lease: TaskLease) -> anyhow::Result<bool> {
        let mut written = false;
        for work in &ticket_work::due(&self.pool, &self.scope, PAGE).await? {
            if lease.is_last() {
                return Ok(true);
            }
            match self.write(work, &lease).await {
                Ok(()) => written = true,
                Err(RelayError::Jira(error @ JiraError::Rejected { .. })) => {
                    self.refused(work, &error).await?;
                    if error.is_about_access() {
                        break;
                    }
                }
                Err(RelayError::Ticket(problem)) => {
                    self.cannot_write(work, &problem.to_string()).await?;
                }
                Err(RelayError::LeaseLost) => return Ok(true),
                Err(RelayError::Database(error)) => return Err(error.into()),
                Err(RelayError::Jira(error)) => {
                    let wait = match &error {
                        JiraError::Unknown { .. } => Some(Duration::from_secs(1)),
                        error => error.retry_after(),
                    };
                    let wait =
                        wait.unwrap_or_else(|| outbox::wait_after(work.attempts, LONGEST_WAIT));
                    self.late(work, wait, &error.to_string()).await?;
                    break;
                }
                Err(error @ RelayError::Doubt(wait)) => {
                    self.late(work, wait, &error.to_string()).await?;
                    break;
                }
            }
        }
        Ok(written)
    }

    async fn late(&self, work: &Work, wait: Duration, error: &str) -> sqlx::Result<()> {
        tracing::warn!(ticket = work.fingerprint, error, "a ticket is written later");
        ticket_work::postpone(&self.pool, work, wait, error).await
    }

    /// Brings one ticket up to date in Jira.
    async fn write(&self, work: &Work, lease: &TaskLease) -> Result<(), RelayError> {
        let target = &work.target;
        if target.site != self.site.name() {
            return Err(TicketProblem::UnknownSite(target.site.clone()).into());
        }
        let facts = TicketFacts::read(&mut *self.pool.acquire().await?, work).await?;
        let people = self.concerned(work, &facts.logins).await?;
        let (key, rendered_version) = match &work.key {
            Some(key) => (key.clone(), work.rendered_version),
            None => {
                let Some(filed) = self.file(work, &facts, &people, lease).await? else {
                    return Ok(());
                };
                self.remember(work, &facts, &people, &filed).await?;
                (filed.issue.key, filed.rendered_version)
            }
        };
        if rendered_version < work.version {
            self.update(work, &key, &facts, &people).await?;
        }
        self.watch(work, &key, &people).await?;
        self.comments(work, &key, &people, lease).await?;
        if let Some(to) = work.pending_transition {
            self.transition(work, &key, to).await?;
        }
        Ok(())
    }

    async fn update(
        &self,
        work: &Work,
        key: &str,
        facts: &TicketFacts,
        people: &Concerned,
    ) -> Result<(), RelayError> {
        let context = self.context(work, facts, people, work.rejected_fields.as_deref());
        let text = self.templates.failure(&context).map_err(TicketProblem::from)?;
        let change = IssueChange {
            summary: Some(text.summary),
            body: Some(Body::markdown(text.body)),
            ..IssueChange::default()
        };
        match self.site.update(key, &change).await {
            Ok(()) => {}
            // Its comments may still be taken: a closed ticket is often kept from changes.
            Err(error @ JiraError::Rejected { .. }) if !error.is_about_access() => {
                tracing::warn!(ticket = key, %error, "Jira refuses to change a ticket's text");
            }
            Err(error) => return Err(error.into()),
        }
        ticket_work::rendered(&self.pool, work.id, work.version).await?;
        Ok(())
    }

    async fn comments(
        &self,
        work: &Work,
        key: &str,
        people: &Concerned,
        lease: &TaskLease,
    ) -> Result<(), RelayError> {
        while let Some(pending) = ticket_work::next_comment(&self.pool, work.id).await? {
            if pending.tried {
                tracing::warn!(ticket = key, "a comment's outcome is unknown; it is not repeated");
                ticket_work::comment_done(&self.pool, pending.id).await?;
                continue;
            }
            let comment: Comment =
                serde_json::from_value(pending.body).map_err(TicketProblem::Comment)?;
            let links = permalinks(&mut *self.pool.acquire().await?, comment.batches()).await?;
            let text = self.comment(&comment, people, &links).map_err(TicketProblem::from)?;
            ticket_work::comment_begins(&self.pool, pending.id).await?;
            if !lease.holds() {
                ticket_work::comment_failed(&self.pool, pending.id).await?;
                return Err(RelayError::LeaseLost);
            }
            match self.site.comment(key, &Body::markdown(text)).await {
                Ok(()) | Err(JiraError::Unknown { .. }) => {}
                Err(error @ JiraError::Rejected { .. }) if !error.is_about_access() => {
                    tracing::warn!(ticket = key, %error, "Jira refuses a comment");
                }
                Err(error) => {
                    ticket_work::comment_failed(&self.pool, pending.id).await?;
                    return Err(error.into());
                }
            }
            ticket_work::comment_done(&self.pool, pending.id).await?;
        }
        Ok(())
    }

    async fn transition(
        &self,
        work: &Work,
        key: &str,
        to: TicketTransition,
    ) -> Result<(), RelayError> {
        let names = match to {
            TicketTransition::Open => &self.policy.reopen_by,
            TicketTransition::Closed => &self.policy.close_by,
        };
        for name in names {
            match self.site.transition(key, name).await {
                Ok(true) => return Ok(ticket_work::transition_done(&self.pool, work.id).await?),
                Ok(false) => {}
                Err(error @ JiraError::Rejected { .. }) if !error.is_about_access() => {
                    tracing::warn!(ticket = key, name, %error, "Jira refuses a transition");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let states = self.site.states(&[key.to_owned()]).await?;
        let closed = states.first().is_some_and(|state| state.category == Category::Done);
        if states.is_empty() || closed != (to == TicketTransition::Closed) {
            let what = if to == TicketTransition::Open { "opens" } else { "closes" };
            let problem =
                format!("no transition of {key} {what} it: Jira offers none of {names:?}");
            let url = work.url.as_deref().unwrap_or_default();
            self.notify_operators(work, Some((key, url)), &problem).await?;
        }
        ticket_work::transition_done(&self.pool, work.id).await?;
        Ok(())
    }

    /// Stores that Jira has the ticket, and queues the notices of it, in one transaction.
    async fn remember(
        &self,
        work: &Work,
        facts: &TicketFacts,
        people: &Concerned,
        filed: &Filed,
    ) -> Result<(), RelayError> {
        let issue = &filed.issue;
        let mut tx = self.pool.begin().await?;
        // Hosts that were assigned until now are named here; later ones find a ticket that is filed.
        ticket::lock(&mut tx).await?;
        let place = (&issue.key[..], &issue.url[..]);
        let rejected_fields = filed.rejected_fields.as_deref();
        if !ticket_work::created(&mut tx, work.id, place, filed.rendered_version, rejected_fields)
            .await?
        {
            return Ok(());
        }
        let error = facts.newest().map(|host| host.failure.error.clone()).unwrap_or_default();
        for batch in ticket::batches(&mut tx, work.id).await? {
            let hosts = ticket_host::of_batch(&mut tx, work.id, batch).await?;
            let tagged = ticket_host::concerned(&mut tx, work.id, Some(batch)).await?;
            let detail = serde_json::json!({ "key": issue.key, "hosts": hosts });
            let body = EventBody::TicketFiled {
                key: issue.key.clone(),
                url: issue.url.clone(),
                error: error.clone(),
                hosts,
                tagged: tagged
                    .iter()
                    .filter_map(|login| people.get(login))
                    .filter(|who| who.account.is_some())
                    .map(|who| who.name.clone())
                    .collect(),
            };
            let key = format!("ticket:{}:filed:{}", work.fingerprint, batch.0);
            outbox::event(&mut tx, &key, batch, body).await?;
            let actor = Actor::system("tickets");
            audit::record(&mut tx, &actor, "ticket.filed", Some(batch), detail).await?;
        }
        ticket::touch_cards(&mut tx, work.id).await?;
        tx.commit().await?;
        if let Some(rejected_fields) = &filed.rejected_fields {
            let problem = format!("Jira did not take all of it: {rejected_fields}");
            self.notify_operators(work, Some(place), &problem).await?;
        }
        Ok(())
    }

    /// Postpones a ticket that cannot be read or rendered as it is stored and configured.
    async fn cannot_write(&self, work: &Work, error: &str) -> sqlx::Result<()> {
        tracing::error!(ticket = work.fingerprint, error, "a ticket cannot be written");
        if work.key.is_some() {
            return ticket_work::postpone(&self.pool, work, REFUSED_WAIT, error).await;
        }
        self.set_aside(work, REFUSED_WAIT, error).await
    }

    /// Postpones a ticket that Jira refuses; operators are notified once.
    async fn refused(&self, work: &Work, error: &JiraError) -> sqlx::Result<()> {
        tracing::error!(ticket = work.fingerprint, %error, "Jira refuses a ticket");
        let wait = if error.is_about_access() { LONGEST_WAIT } else { REFUSED_WAIT };
        let error = error.to_string();
        if work.key.is_some() {
            return ticket_work::postpone(&self.pool, work, wait, &error).await;
        }
        self.set_aside(work, wait, &error).await
    }

    /// Marks a ticket that cannot be filed, so that later tickets are filed before it.
    async fn set_aside(&self, work: &Work, wait: Duration, error: &str) -> sqlx::Result<()> {
        let mut tx = self.pool.begin().await?;
        ticket_work::refused(&mut tx, work.id, wait, error).await?;
        tx.commit().await?;
        match work.refused {
            true => Ok(()),
            false => self.notify_operators(work, None, error).await,
        }
    }

    /// Queues a notice to the operators' channel, or else to the thread of the batch.
    async fn notify_operators(
        &self,
        work: &Work,
        filed: Option<(&str, &str)>,
        problem: &str,
    ) -> sqlx::Result<()> {
        let name = filed.map_or(&work.fingerprint[..], |(key, _)| key);
        tracing::warn!(ticket = name, problem, "a ticket needs an operator");
        let body = EventBody::TicketBlocked {
            key: filed.map(|(key, _)| key.to_owned()),
            url: filed.map(|(_, url)| url.to_owned()),
            problem: problem.trim_end_matches('.').to_owned(),
        };
        let notice = Notice::event(Event::new(work.batch, body));
        let channel = self.policy.operators.as_deref().and_then(|place| place.split_once('/'));
        let audience = match channel {
            Some((platform, channel)) => {
                Audience::Channel { location: ChatLocation::channel(platform, channel) }
            }
            None => Audience::Thread { batch: work.batch },
        };
        let what = hex::encode(&Sha256::digest(problem)[..4]);
        let key = format!("ticket:{}:trouble:{}:{what}", work.fingerprint, work.version);
        outbox::notice(&mut *self.pool.acquire().await?, &key, &audience, &notice).await
    }
}
