//! Says which ticket each failed host of a batch is on or would get, and why. Asks only our books:
//! it works while Jira is away.

use serde::Serialize;
use sqlx::PgConnection;

use super::place::{Placement, candidates, group, settle};
use crate::domain::cluster::Shared;
use crate::domain::host::HostName;
use crate::domain::ids::BatchId;
use crate::domain::triage::{Act, HostFailure, Routes, Target, TicketPolicy};
use crate::store::ticket;
use crate::store::ticket_host::failed_jobs;

/// Hosts that go one way together.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    pub hosts: Vec<HostName>,
    pub error_kind: String,
    /// The last error of the first of the hosts.
    pub error: String,
    /// The rule that takes them by today's configuration, and the conditions that they meet.
    pub rule: String,
    pub because: Vec<String>,
    /// Where a new ticket would go.
    pub target: Target,
    pub signature: String,
    pub shared: Option<Shared>,
    /// What became of them, or would.
    pub ticket: Outcome,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Outcome {
    /// They are on a ticket; `state` is as in `metalbot tickets list`.
    Placed { state: String, key: Option<String>, url: Option<String> },
    /// They are on none yet, and would get this.
    Would { act: Act, key: Option<String>, url: Option<String> },
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
    for group in group(routes, failures.into_iter().map(|(_, failure)| failure).collect()) {
        let explain = |hosts: &[HostFailure], shared, ticket| Explained {
            hosts: hosts.iter().map(|one| one.host.clone()).collect(),
            error_kind: hosts.first().map(|one| one.kind.clone()).unwrap_or_default(),
            error: hosts.first().map(|one| one.error.clone()).unwrap_or_default(),
            rule: group.routed.rule.clone(),
            because: group.routed.met.clone(),
            target: group.routed.target.clone(),
            signature: group.signature.clone(),
            shared,
            ticket,
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
                let outcome = Outcome::Placed { state: state.clone(), key, url };
                explained.push(explain(&mine, shared, outcome));
            }
        }
        let candidates = candidates(&mut *conn, policy, &group).await?;
        for Placement { act, ticket, shared, failures } in settle(policy, rest, candidates) {
            let (key, url) = ticket.and_then(|known| known.filed).unzip();
            explained.push(explain(&failures, shared, Outcome::Would { act, key, url }));
        }
    }
    Ok(explained)
}
