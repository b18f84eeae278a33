//! Decides which ticket each failure belongs to: by its route, its signature, and what its host
//! shares with others. Writes the database only; Jira is not asked.
//!
//! Invariant: one transaction at a time places failures, so that replicas which see a hundred
//! failures of one cause at the same moment still make one ticket.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool, PgTransaction};

use super::comment::Comment;
use super::signature::signature;
use metalbot_core::domain::common_cause::{Shared, cluster, common};
use metalbot_core::domain::event::EventBody;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, JobId};
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::triage::{
    HostFailure, Routed, Routes, Standing, TicketPolicy, TicketUpdate,
};
use metalbot_store::batch::Batch;
use metalbot_store::bmc_identity::{self, Usual};
use metalbot_store::outbox::PendingTicket;
use metalbot_store::ticket::{self, KnownTicket, NewHost, NewTicket, TicketTransition};
use metalbot_store::{self as store, audit, card, host_wont_fix, outbox, ticket_host};

/// Period of the task when nothing wakes it.
pub const PERIOD: Duration = Duration::from_secs(1);

/// Parts of the task.
#[derive(Clone, Debug)]
pub struct TicketAssigner {
    pub pool: PgPool,
    pub routes: Routes,
    pub policy: TicketPolicy,
}

/// Failures with the same signature, and their target.
pub struct Group {
    pub routed: Routed,
    pub signature: String,
    pub failures: Vec<HostFailure>,
}

/// Failures that go onto one ticket.
#[derive(Clone, Debug)]
pub struct Placement {
    pub act: TicketUpdate,
    /// The ticket that is there; `None` for [`TicketUpdate::New`].
    pub ticket: Option<KnownTicket>,
    /// Common property of all hosts that are on the ticket then.
    pub shared: Option<Shared>,
    pub failures: Vec<HostFailure>,
}

/// A ticket of the same signature, and its hosts where more of them may join it.
pub struct Candidate {
    pub known: KnownTicket,
    pub hosts: Vec<HostFailure>,
}

/// Groups failures of one batch by their signature.
pub fn group(routes: &Routes, failures: Vec<HostFailure>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for failure in failures {
        let routed = routes.route(&failure);
        let signature = signature(&failure, &routed.target);
        match groups.iter_mut().find(|group| group.signature == signature) {
            Some(group) => group.failures.push(failure),
            None => groups.push(Group { routed, signature, failures: vec![failure] }),
        }
    }
    groups
}

/// The failure, with what most of the fleet has in common with its host.
pub fn distinctive(usual: &Usual, failure: HostFailure) -> HostFailure {
    HostFailure { usual: usual.parts(&failure.bmc), ..failure }
}

/// Finds each failure's ticket. `candidates` are the tickets of the signature, the newest first: the
/// first one that a failure fits decides, by the policy, what becomes of it.
pub fn match_ticket(
    policy: &TicketPolicy,
    failures: Vec<HostFailure>,
    candidates: Vec<Candidate>,
) -> Vec<Placement> {
    let (mut rest, mut fresh, mut placements) = (failures, Vec::new(), Vec::new());
    for Candidate { known, hosts } in candidates {
        let attracts = attracts(policy, &known);
        let names: HashSet<&HostName> = hosts.iter().map(|host| &host.host).collect();
        let fits = |failure: &HostFailure| {
            attracts && known.shared.as_ref().is_some_and(|shared| shared.by(failure))
                || names.contains(&failure.host)
        };
        let (mut mine, mut others): (Vec<_>, Vec<_>) = rest.into_iter().partition(fits);
        if is_recent(policy, &known) {
            others = join(&known, &hosts, &mut mine, others);
        }
        rest = others;
        if mine.is_empty() {
            continue;
        }
        match policy.act(known.standing) {
            TicketUpdate::New => fresh.extend(mine),
            act => {
                let shared = match hosts.is_empty() {
                    true => known.shared.clone(),
                    false => common(&together(&hosts, &mine)),
                };
                placements.push(Placement { act, ticket: Some(known), shared, failures: mine });
            }
        }
    }
    fresh.extend(rest);
    for found in cluster(fresh) {
        let (shared, failures) = (found.shared, found.failures);
        placements.push(Placement { act: TicketUpdate::New, ticket: None, shared, failures });
    }
    placements
}

/// Returns whether hosts that are not on the ticket belong to it when they share what its hosts share. A
/// ticket that is closed for good says nothing of a rack's other hosts.
fn attracts(policy: &TicketPolicy, known: &KnownTicket) -> bool {
    matches!(policy.act(known.standing), TicketUpdate::Join | TicketUpdate::Reopen)
}

/// Returns whether failures so close in time may have the ticket's cause although they lie a little off.
fn is_recent(policy: &TicketPolicy, known: &KnownTicket) -> bool {
    known.standing == Standing::Open && known.quiet_for <= policy.group_window
}

/// Moves to `mine` what shares something with all hosts of the ticket; returns the others.
fn join(
    known: &KnownTicket,
    hosts: &[HostFailure],
    mine: &mut Vec<HostFailure>,
    others: Vec<HostFailure>,
) -> Vec<HostFailure> {
    let mut left = Vec::new();
    for found in cluster(others) {
        let all = together(&together(hosts, mine), &found.failures);
        let nothing_shared = known.shared.is_none() && found.shared.is_none();
        match common(&all).is_some() || nothing_shared {
            true => mine.extend(found.failures),
            false => left.extend(found.failures),
        }
    }
    left
}

fn together(some: &[HostFailure], more: &[HostFailure]) -> Vec<HostFailure> {
    some.iter().chain(more).cloned().collect()
}

/// The tickets that the group's failures may belong to.
pub async fn candidates(
    conn: &mut PgConnection,
    policy: &TicketPolicy,
    usual: &Usual,
    group: &Group,
) -> sqlx::Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    let hosts: Vec<&HostName> = group.failures.iter().map(|failure| &failure.host).collect();
    let known =
        ticket::of_signature(&mut *conn, &group.signature, policy.reopen_within, &hosts).await?;
    for known in known {
        let by_shared = attracts(policy, &known) && known.shared.is_some();
        let hosts = match is_recent(policy, &known) || !by_shared {
            true => ticket_host::hosts(&mut *conn, known.id).await?,
            false => Vec::new(),
        };
        let hosts = hosts.into_iter().map(|host| distinctive(usual, host.failure)).collect();
        candidates.push(Candidate { known, hosts });
    }
    Ok(candidates)
}

impl TicketAssigner {
    /// Puts all failures that wait onto tickets; `true` when there were any.
    pub async fn run_once(self: Arc<Self>) -> anyhow::Result<bool> {
        let due = outbox::due_tickets(&self.pool, 100).await?;
        for pending in &due {
            if let Err(error) = self.place(pending).await {
                // One that this version cannot read must not delay the others.
                let (batch, error) = (pending.batch, error.to_string());
                tracing::error!(%batch, error, "failures of a batch cannot be put on a ticket");
                let wait = outbox::wait_after(pending.attempts, super::relay::LONGEST_WAIT);
                outbox::postpone(&self.pool, pending.id, wait, &error).await?;
            }
        }
        Ok(!due.is_empty())
    }

    async fn place(&self, pending: &PendingTicket) -> sqlx::Result<()> {
        let mut tx = self.pool.begin().await?;
        ticket::lock(&mut tx).await?;
        if !outbox::take(&mut tx, pending.id).await? {
            return Ok(());
        }
        let batch = store::batch::get(&mut tx, pending.batch).await?;
        let batch = batch.ok_or(sqlx::Error::RowNotFound)?;
        let kind = pending.error_kind;
        let failed = ticket_host::failed_jobs(&mut tx, pending.batch, Some(kind)).await?;
        let jobs: HashMap<HostName, JobId> =
            failed.iter().map(|(job, failure)| (failure.host.clone(), *job)).collect();
        let usual = bmc_identity::usual(&mut tx).await?;
        let failures =
            failed.into_iter().map(|(_, failure)| distinctive(&usual, failure)).collect();
        for group in group(&self.routes, failures) {
            let candidates = candidates(&mut tx, &self.policy, &usual, &group).await?;
            for placement in match_ticket(&self.policy, group.failures, candidates) {
                let new = |failure| new_host(&jobs, failure);
                let hosts: Vec<NewHost<'_>> = placement.failures.iter().map(new).collect();
                let Some(known) = &placement.ticket else {
                    let new = NewTicket {
                        fingerprint: &fingerprint(&batch, &group.signature, &placement),
                        batch: batch.id,
                        error_kind: kind,
                        target: &group.routed.target,
                        rule: &group.routed.rule,
                        signature: &group.signature,
                        shared: placement.shared.as_ref(),
                    };
                    if let Some(id) = ticket::insert(&mut tx, &new).await? {
                        ticket::add_hosts(&mut tx, id, batch.id, &hosts).await?;
                    }
                    continue;
                };
                add(&mut tx, &batch, known, &placement, &hosts).await?;
            }
        }
        card::touch(&mut tx, batch.id).await?;
        outbox::sent(&mut tx, pending.id).await?;
        tx.commit().await
    }
}

fn new_host<'a>(jobs: &HashMap<HostName, JobId>, failure: &'a HostFailure) -> NewHost<'a> {
    NewHost {
        job: jobs[&failure.host],
        source: &failure.source,
        error_kind: failure.kind,
        error: &failure.error,
    }
}

/// Names a ticket. The batch's time of birth keeps apart batches of the same number from different
/// databases that file into the same Jira.
fn fingerprint(batch: &Batch, signature: &str, placement: &Placement) -> String {
    let BatchId(id) = batch.id;
    let born = batch.created_at.unix_timestamp_nanos();
    let shared = json!(placement.shared);
    let hash = Sha256::digest(format!("{id} {born} {signature} {shared}"));
    hex::encode(&hash[..8])
}

/// Puts failures onto a ticket that is there.
async fn add(
    tx: &mut PgTransaction<'_>,
    batch: &Batch,
    known: &KnownTicket,
    placement: &Placement,
    new: &[NewHost<'_>],
) -> sqlx::Result<()> {
    if ticket::add_hosts(tx, known.id, batch.id, new).await? == 0 {
        return Ok(());
    }
    if placement.act != TicketUpdate::Nothing {
        ticket::grow(tx, known.id, placement.shared.as_ref()).await?;
    }
    if placement.act == TicketUpdate::Reopen {
        ticket::request_transition(tx, known.id, TicketTransition::Open).await?;
    }
    if known.standing == Standing::Declined {
        host_wont_fix::set(tx, known.id).await?;
    }
    let hosts: Vec<HostName> = placement.failures.iter().map(|one| one.host.clone()).collect();
    let detail = json!({ "ticket": known.id, "act": placement.act, "hosts": hosts });
    let actor = Actor::system("tickets");
    audit::record(&mut *tx, &actor, "ticket.joined", Some(batch.id), detail).await?;
    // For a ticket that is not filed yet all of its batches are notified when it is.
    let Some((key, url)) = &known.filed else { return Ok(()) };
    let error = placement.failures.first().map(|one| one.error.clone()).unwrap_or_default();
    if placement.act != TicketUpdate::Nothing {
        let comment = Comment::Again {
            batch: batch.id,
            action: batch.plan.action.clone(),
            submitter: batch.submitter.clone(),
            hosts: hosts.clone(),
            error: error.clone(),
        };
        comment.queue(tx, known.id).await?;
    }
    let body = EventBody::TicketUpdated {
        key: key.clone(),
        url: url.clone(),
        error,
        hosts,
        update: placement.act,
    };
    let key = format!("ticket:{}:again:{}", known.id, batch.id.0);
    outbox::event(tx, &key, batch.id, body).await
}
