//! Files the tickets that wait in the outbox. Nothing else waits for Jira: while it is away tickets
//! are late, and are filed once when it is back.
//!
//! Creating is not idempotent in Jira. A create of unknown outcome, and one that a dead process may
//! have sent, is settled by a search for the ticket's own label before anything is sent again. A
//! process that stood still between its search and its create has lost its turn, and creates nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::Map;
use sqlx::PgPool;

use super::jira::{Body, Issue, JiraError, NewIssue, Site};
use super::render::{TicketContext, TicketHost, TicketPerson, TicketTemplates};
use crate::domain::host::{Host, HostName, fold};
use crate::domain::notice::{Audience, Notice};
use crate::domain::principal::Actor;
use crate::failpoint::{Point, reach};
use crate::store::batch::Batch;
use crate::store::outbox::PendingTicket;
use crate::store::task::Turn;
use crate::store::ticket::Filed;
use crate::store::view::FailedHost;
use crate::store::{self, audit, card, outbox, view};

/// How often the relay looks when nobody wakes it.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Rows of a ticket's table of hosts.
const TABLE: usize = 50;
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a ticket needs to know of a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    pub name: String,
    /// Jira account, where the directory knows one.
    pub account: Option<String>,
}

/// Looks a person up by login; a person who has left is still named.
pub type FindPerson = Arc<dyn Fn(&str) -> Person + Send + Sync>;
/// Looks a host up in today's inventory.
pub type FindHost = Arc<dyn Fn(&HostName) -> Option<Host> + Send + Sync>;

/// What the relay works with.
#[derive(Clone)]
pub struct TicketRelay {
    pub pool: PgPool,
    pub jira: Site,
    pub project: String,
    pub issue_type: String,
    pub labels: Vec<String>,
    pub templates: Arc<TicketTemplates>,
    pub find_person: FindPerson,
    pub find_host: FindHost,
    /// Where people reach the console, without a trailing slash.
    pub public_url: String,
}

impl TicketRelay {
    /// Files what is due; `true` when there may be more.
    pub async fn round(&self, turn: Turn) -> anyhow::Result<bool> {
        let due = outbox::due_tickets(&self.pool, 20).await?;
        for pending in &due {
            if turn.is_last() {
                return Ok(true);
            }
            match self.file(pending, &turn).await {
                Ok(()) => {}
                Err(Failed::Jira(error @ JiraError::Rejected { .. })) => {
                    tracing::error!(ticket = pending.fingerprint, %error, "Jira refuses a ticket");
                    outbox::refused(&self.pool, pending.id, &error.to_string()).await?;
                }
                Err(Failed::Jira(error)) => {
                    tracing::warn!(ticket = pending.fingerprint, %error, "a ticket was not filed");
                    let wait = error
                        .retry_after()
                        .unwrap_or_else(|| outbox::wait_after(pending.attempts, LONGEST_WAIT));
                    outbox::postpone(&self.pool, pending.id, wait, &error.to_string()).await?;
                }
                Err(Failed::Internal(error)) => return Err(error),
            }
        }
        Ok(!due.is_empty())
    }

    async fn file(&self, pending: &PendingTicket, turn: &Turn) -> Result<(), Failed> {
        let mut conn = self.pool.acquire().await.context("database")?;
        let batch = store::batch::get(&mut conn, pending.batch).await.context("batch")?;
        let batch = batch.context("a ticket for a batch that is gone")?;
        let hosts = view::failed_hosts(&mut conn, pending.batch, &pending.error_kind)
            .await
            .context("failed hosts")?;
        let approvers = view::approvers(&mut conn, &batch).await.context("approvers")?;
        drop(conn);

        let label = format!("metalbot-{}", pending.fingerprint);
        // The first try may have been that of a process that died before it could count it.
        let found = self.jira.find_by_label(&label).await?;
        let people = self.people(&batch, &approvers);
        let issue = match found {
            Some(issue) => issue,
            None => {
                let context = self.context(pending, &batch, &hosts, &people);
                let text = self.templates.failure(&context).context("ticket template")?;
                let new = NewIssue {
                    project: self.project.clone(),
                    issue_type: self.issue_type.clone(),
                    summary: text.summary,
                    body: Body::markdown(text.body),
                    labels: self.labels.iter().cloned().chain([label]).collect(),
                    components: Vec::new(),
                    priority: None,
                    assignee: None,
                    fields: Map::new(),
                };
                if !turn.holds() {
                    return Err(anyhow::anyhow!("the turn was lost before the create").into());
                }
                reach(Point::TicketBeforeCreate);
                let issue = self.jira.create(&new).await?;
                reach(Point::TicketAfterCreate);
                issue
            }
        };
        self.watch(&issue, &people).await;
        self.remember(pending, &hosts, &issue, &people).await?;
        Ok(())
    }

    /// Submitter first, then the approvers, each once.
    fn people(&self, batch: &Batch, approvers: &[String]) -> Vec<Person> {
        let mut seen = BTreeSet::new();
        std::iter::once(&batch.submitter)
            .chain(approvers)
            .filter(|login| seen.insert(login.as_str()))
            .map(|login| (self.find_person)(login))
            .collect()
    }

    fn context(
        &self,
        pending: &PendingTicket,
        batch: &Batch,
        hosts: &[FailedHost],
        people: &[Person],
    ) -> TicketContext {
        let names: Vec<HostName> = hosts.iter().map(|failed| failed.host.clone()).collect();
        let first = hosts.first();
        let step = first.and_then(|failed| batch.plan.steps.get(failed.step));
        let (submitter, approvers) = match people {
            [submitter, approvers @ ..] => (Some(submitter), approvers),
            [] => (None, people),
        };
        TicketContext {
            action: batch.plan.action.clone(),
            batch: batch.id.to_string(),
            batch_url: format!("{}/batches/{}", self.public_url, batch.id.0),
            submitter: submitter.map_or_else(|| batch.submitter.clone(), |who| who.name.clone()),
            submitter_account: submitter.and_then(|who| who.account.clone()),
            approvers: approvers
                .iter()
                .map(|who| TicketPerson { name: who.name.clone(), account: who.account.clone() })
                .collect(),
            reason: batch.reason.clone().unwrap_or_default(),
            error_kind: pending.error_kind.clone(),
            error: first.map(|failed| failed.error.clone()).unwrap_or_default(),
            step: step.map(|step| step.title.clone()).unwrap_or_default(),
            hosts_folded: fold(&names),
            host_count: hosts.len(),
            hosts: hosts.iter().take(TABLE).map(|failed| self.row(failed)).collect(),
            advice: None,
        }
    }

    fn row(&self, failed: &FailedHost) -> TicketHost {
        TicketHost {
            name: failed.host.to_string(),
            datacenter: failed.datacenter.clone(),
            rack: failed.rack.clone(),
            sku: failed.sku.clone(),
            bmc: (self.find_host)(&failed.host).map(|host| host.bmc.address).unwrap_or_default(),
            error: failed.error.clone(),
            attempts: u32::try_from(failed.attempts).unwrap_or(u32::MAX),
        }
    }

    /// Makes the people watchers. The mention in the text has told them already, so that an account
    /// that Jira does not know delays nothing.
    async fn watch(&self, issue: &Issue, people: &[Person]) {
        for account in people.iter().filter_map(|who| who.account.as_deref()) {
            if let Err(error) = self.jira.add_watcher(&issue.key, account).await {
                tracing::warn!(ticket = issue.key, account, %error, "cannot add a watcher");
            }
        }
    }

    /// The ticket, the notice of it and the end of the outbox row, together.
    async fn remember(
        &self,
        pending: &PendingTicket,
        hosts: &[FailedHost],
        issue: &Issue,
        people: &[Person],
    ) -> anyhow::Result<()> {
        let names: Vec<HostName> = hosts.iter().map(|failed| failed.host.clone()).collect();
        let filed = Filed {
            fingerprint: &pending.fingerprint,
            batch: pending.batch,
            error_kind: &pending.error_kind,
            key: &issue.key,
            url: &issue.url,
            hosts: &names,
        };
        let mut tx = self.pool.begin().await?;
        if store::ticket::insert(&mut tx, &filed).await? {
            let notice = Notice::TicketFiled {
                batch: pending.batch,
                key: issue.key.clone(),
                url: issue.url.clone(),
                error: hosts.first().map(|failed| failed.error.clone()).unwrap_or_default(),
                hosts: names.clone(),
                tagged: people.iter().map(|who| who.name.clone()).collect(),
            };
            let audience = Audience::Thread { batch: pending.batch };
            let key = format!("ticket:{}", pending.fingerprint);
            outbox::notice(&mut tx, &key, &audience, &notice).await?;
            let detail = serde_json::json!({ "key": issue.key, "hosts": names });
            let actor = Actor::system("tickets");
            audit::record(&mut tx, &actor, "ticket.filed", Some(pending.batch), detail).await?;
            card::touch(&mut tx, pending.batch).await?;
        }
        outbox::sent(&mut tx, pending.id).await?;
        tx.commit().await?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Jira(#[from] JiraError),
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}
