//! Collects the facts of a ticket from the database, the directory and the inventory.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::comment::Comment;
use super::people::Concerned;
use super::relay::TicketRelay;
use super::render::{
    AgainContext, BatchLink, ResolvedContext, TicketBatch, TicketContext, TicketEvents, TicketHost,
    TicketPerson, TicketTemplateError,
};
use metalbot_core::domain::common_cause::Shared;
use metalbot_core::domain::host::fold;
use metalbot_core::domain::ids::BatchId;
use metalbot_store::batch::Batch;
use metalbot_store::ticket_host::{FailedHost, concerned, hosts};
use metalbot_store::ticket_work::Work;
use metalbot_store::{self as store, card, ticket, view};

/// Batches that a ticket lists; of those before it only names the people.
const BATCHES: usize = 20;
/// People of earlier batches who are named.
const PEOPLE: usize = 50;
/// Rows of a ticket's table of hosts.
const TABLE: usize = 60;
/// Hosts whose BMC's log is quoted, and lines of each.
const LOGS: usize = 5;
const LOG_LINES: usize = 8;

/// Facts of a ticket from the database.
pub struct TicketFacts {
    /// Batches with their approvers. The newest first, and at most [`BATCHES`].
    pub batches: Vec<(Batch, Vec<String>)>,
    pub more_batches: usize,
    /// Logins of all people concerned: submitters and approvers, each once.
    pub logins: Vec<String>,
    pub hosts: Vec<FailedHost>,
    pub shared: Option<Shared>,
    /// Addresses that show the batches' cards.
    pub links: HashMap<BatchId, String>,
}

impl TicketFacts {
    pub async fn read(conn: &mut PgConnection, work: &Work) -> sqlx::Result<TicketFacts> {
        let ids = ticket::batches(&mut *conn, work.id).await?;
        let mut batches = Vec::new();
        for id in ids.iter().rev().take(BATCHES) {
            if let Some(batch) = store::batch::get(&mut *conn, *id).await? {
                let approvers = view::approvers(&mut *conn, &batch).await?;
                batches.push((batch, approvers));
            }
        }
        let hosts = hosts(&mut *conn, work.id).await?;
        let shared = ticket::shared(&mut *conn, work.id).await?;
        let logins = concerned(&mut *conn, work.id, None).await?;
        let more_batches = ids.len() - batches.len();
        let links = card::permalinks(&mut *conn, &ids).await?;
        Ok(TicketFacts { batches, more_batches, logins, hosts, shared, links })
    }

    /// The host that failed last.
    pub fn newest(&self) -> Option<&FailedHost> {
        self.hosts.iter().max_by_key(|host| (host.batch, std::cmp::Reverse(&host.failure.host)))
    }
}

impl TicketRelay {
    /// Context of the ticket's template. `rejected_fields` are those that Jira did not take.
    pub(super) fn context(
        &self,
        work: &Work,
        facts: &TicketFacts,
        people: &Concerned,
        rejected_fields: Option<&str>,
    ) -> TicketContext {
        let person = |login: &String| {
            let unknown = || TicketPerson { name: login.clone(), account: None };
            people.get(login).cloned().unwrap_or_else(unknown)
        };
        let named: HashSet<&String> = facts
            .batches
            .iter()
            .flat_map(|(batch, approvers)| std::iter::once(&batch.submitter).chain(approvers))
            .collect();
        let more_people = facts.logins.iter().filter(|login| !named.contains(login));
        let batches = facts.batches.iter().map(|(batch, approvers)| TicketBatch {
            id: batch.id.to_string(),
            url: self.batch_url(batch.id, &facts.links),
            place: batch.origin.via(),
            action: batch.plan.action.clone(),
            submitter: person(&batch.submitter),
            approvers: approvers.iter().map(person).collect(),
            reason: batch.reason.clone().unwrap_or_default(),
        });
        let names = facts.hosts.iter().map(|host| &host.failure.host);
        let resolved =
            facts.hosts.iter().filter(|host| host.resolved).map(|host| &host.failure.host);
        let newest = facts.newest().map(|host| &host.failure);
        let logs = facts.hosts.iter().filter(|host| !host.bmc_events.is_empty());
        TicketContext {
            batches: batches.collect(),
            more_batches: facts.more_batches,
            more_people: more_people.take(PEOPLE).map(person).collect(),
            error_kind: work.error_kind,
            error: newest.map(|failure| failure.error.clone()).unwrap_or_default(),
            source: newest.map(|failure| failure.source.to_string()).unwrap_or_default(),
            shared: facts
                .shared
                .as_ref()
                .filter(|_| facts.hosts.len() > 1)
                .map(|shared| format!("{} {}", shared.dimension.as_str(), shared.value)),
            hosts_folded: fold(names),
            resolved_folded: fold(resolved),
            host_count: facts.hosts.len(),
            hosts: facts.hosts.iter().take(TABLE).map(|host| self.row(host)).collect(),
            events: logs
                .take(LOGS)
                .map(|host| {
                    let from = host.bmc_events.len().saturating_sub(LOG_LINES);
                    let lines = host.bmc_events[from..].join("\n");
                    TicketEvents { host: host.failure.host.to_string(), lines }
                })
                .collect(),
            rejected_fields: rejected_fields.map(str::to_owned),
            retry: facts.batches.first().map_or(work.batch, |(batch, _)| batch.id).0.to_string(),
        }
    }

    fn row(&self, host: &FailedHost) -> TicketHost {
        let failure = &host.failure;
        let known = self.hosts.host(&failure.host);
        TicketHost {
            name: failure.host.to_string(),
            datacenter: failure.datacenter.clone(),
            rack: failure.rack.clone(),
            sku: failure.sku.clone(),
            bmc: known.map(|host| host.bmc.address).unwrap_or_default(),
            firmware: failure.bmc.firmware.clone(),
            error: failure.error.clone(),
            attempts: u32::try_from(host.attempts).unwrap_or(u32::MAX),
            tried: tried(host.first_try, host.last_try),
        }
    }

    /// Where a batch's card is seen by those who may; where that is not known, the console says it to
    /// those who are signed in.
    fn batch_url(&self, batch: BatchId, links: &HashMap<BatchId, String>) -> String {
        let page = || format!("{}/batches/{}", self.public_url, batch.0);
        links.get(&batch).cloned().unwrap_or_else(page)
    }

    /// Renders a comment.
    pub(super) fn comment(
        &self,
        comment: &Comment,
        people: &Concerned,
        links: &HashMap<BatchId, String>,
    ) -> Result<String, TicketTemplateError> {
        Ok(match comment {
            Comment::Again { batch, action, submitter, hosts, error } => {
                let unknown = || TicketPerson { name: submitter.clone(), account: None };
                self.templates.again(&AgainContext {
                    batch: batch.to_string(),
                    batch_url: self.batch_url(*batch, links),
                    action: action.clone(),
                    submitter: people.get(submitter).cloned().unwrap_or_else(unknown),
                    hosts_folded: fold(hosts),
                    error: error.clone(),
                })?
            }
            Comment::Resolved { batches, hosts } => {
                let link = |batch: &BatchId| BatchLink {
                    id: batch.to_string(),
                    url: self.batch_url(*batch, links),
                };
                self.templates.resolved(&ResolvedContext {
                    batches: batches.iter().map(link).collect(),
                    hosts_folded: fold(hosts),
                })?
            }
        })
    }
}

/// `23 Nov 14:02 to 14:05 UTC`
fn tried(first: Option<OffsetDateTime>, last: Option<OffsetDateTime>) -> String {
    let day = format_description!("[day padding:none] [month repr:short] [hour]:[minute]");
    let clock = format_description!("[hour]:[minute]");
    let Some(first) = first.map(|time| time.to_offset(UtcOffset::UTC)) else {
        return String::new();
    };
    let last = last.map(|time| time.to_offset(UtcOffset::UTC)).unwrap_or(first);
    let until = match last - first < time::Duration::minutes(1) {
        true => Ok(String::new()),
        false if last.date() == first.date() => last.format(&clock).map(|t| format!(" to {t}")),
        false => last.format(&day).map(|t| format!(" to {t}")),
    };
    match (first.format(&day), until) {
        (Ok(from), Ok(until)) => format!("{from}{until} UTC"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_of_attempts() {
        let at = |time| Some(time);
        let first = datetime!(2026-11-23 14:02:10 UTC);
        assert_eq!(tried(None, None), "");
        assert_eq!(tried(at(first), None), "23 Nov 14:02 UTC");
        assert_eq!(tried(at(first), at(datetime!(2026-11-23 14:02:40 UTC))), "23 Nov 14:02 UTC");
        let later = datetime!(2026-11-23 16:05 +1);
        assert_eq!(tried(at(first), at(later)), "23 Nov 14:02 to 15:05 UTC");
        let next_day = datetime!(2026-11-24 00:05 UTC);
        assert_eq!(tried(at(first), at(next_day)), "23 Nov 14:02 to 24 Nov 00:05 UTC");
    }
}
