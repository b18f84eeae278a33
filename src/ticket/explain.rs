//! Explains which ticket each failed host of a batch is on or would get. Reads the database only: it
//! works while Jira is away.

use serde::Serialize;
use sqlx::PgConnection;

use super::assign::{Placement, candidates, distinctive, group, match_ticket};
use metalbot_core::domain::common_cause::Shared;
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::triage::{
    HostFailure, Routed, Routes, TicketPolicy, TicketTarget, TicketUpdate,
};
use metalbot_store::ticket_host::failed_jobs;
use metalbot_store::{bmc_identity, ticket};

/// Hosts of a batch with the same error and the same ticket.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    pub hosts: Vec<HostName>,
    pub error_kind: ErrorKind,
    /// Last error of the first of the hosts.
    pub error: String,
    /// The rule that takes them by today's configuration, and the conditions that they meet.
    pub rule: String,
    pub because: Vec<String>,
    /// TicketTarget of a new ticket.
    pub target: TicketTarget,
    pub signature: String,
    pub shared: Option<Shared>,
    /// Ticket that they are on, or would get.
    pub ticket: ExplainedTicket,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ExplainedTicket {
    /// They are on a ticket; `state` is as in `metalbot operator tickets list`.
    Placed { state: String, key: Option<String>, url: Option<String> },
    /// They are on none yet, and would get this.
    Would { act: TicketUpdate, key: Option<String>, url: Option<String> },
}

/// Explains every failed host of a batch.
pub async fn explain(
    conn: &mut PgConnection,
    routes: &Routes,
    policy: &TicketPolicy,
    batch: BatchId,
) -> sqlx::Result<Vec<Explained>> {
    let failures = failed_jobs(&mut *conn, batch, None).await?;
    let placed = ticket::of_batch_hosts(&mut *conn, batch).await?;
    let mut explained = Vec::new();
    let usual = bmc_identity::usual(&mut *conn).await?;
    let failures = failures.into_iter().map(|(_, failure)| distinctive(&usual, failure)).collect();
    for group in group(routes, failures) {
        let mut explain =
            |hosts: Vec<HostFailure>, shared: Option<Shared>, ticket: ExplainedTicket| {
                for (routed, hosts) in by_rule(routes, hosts) {
                    let Some(first) = hosts.first() else { continue };
                    explained.push(Explained {
                        error_kind: first.kind,
                        error: first.error.clone(),
                        hosts: hosts.iter().map(|one| one.host.clone()).collect(),
                        rule: routed.rule,
                        because: routed.met,
                        target: routed.target,
                        signature: group.signature.clone(),
                        shared: shared.clone(),
                        ticket: ticket.clone(),
                    });
                }
            };
        let mut rest = group.failures.clone();
        let mut tickets: Vec<_> = placed.iter().map(|(_, id, ..)| *id).collect();
        tickets.sort();
        tickets.dedup();
        for id in tickets {
            let on_it = |failure: &HostFailure| {
                placed.iter().any(|(host, ticket, ..)| *ticket == id && *host == failure.host)
            };
            let (mine, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(on_it);
            rest = others;
            let row = placed.iter().find(|(_, ticket, ..)| *ticket == id);
            if let (Some((_, _, state, filed)), false) = (row, mine.is_empty()) {
                let (key, url) = filed.clone().unzip();
                let shared = ticket::shared(&mut *conn, id).await?;
                let outcome = ExplainedTicket::Placed { state: state.clone(), key, url };
                explain(mine, shared, outcome);
            }
        }
        let candidates = candidates(&mut *conn, policy, &usual, &group).await?;
        for Placement { act, ticket, shared, failures } in match_ticket(policy, rest, candidates) {
            let (key, url) = ticket.and_then(|known| known.filed).unzip();
            explain(failures, shared, ExplainedTicket::Would { act, key, url });
        }
    }
    Ok(explained)
}

/// Splits hosts by the rule that takes them: two rules may have one target.
fn by_rule(routes: &Routes, hosts: Vec<HostFailure>) -> Vec<(Routed, Vec<HostFailure>)> {
    let mut parts: Vec<(Routed, Vec<HostFailure>)> = Vec::new();
    for host in hosts {
        let routed = routes.route(&host);
        match parts.iter_mut().find(|(known, _)| known.rule == routed.rule) {
            Some((_, part)) => part.push(host),
            None => parts.push((routed, vec![host])),
        }
    }
    parts
}
