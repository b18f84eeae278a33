//! Checks the hosts of new batches before anybody is asked to approve. Hosts that do not pass are
//! left out, with a ticket for each kind of error; the batch goes on with the others, or is refused
//! when none is left.
//!
//! A process checks the hosts in the datacenters that it reaches. Where a batch spans several, each
//! process checks its part, and whoever checks the last one goes on with the batch.
//!
//! Invariant: nothing is written before all hosts of a part were checked, and then everything in
//! one transaction. A process that dies in between leaves a part that the next one checks again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::bmc::Bmc;
use crate::failpoint::{Point, reach};
use crate::preflight::check;
use crate::runtime::task::TaskLease;
use metalbot_core::domain::approval::{self, ApprovalRule, count_by_owner};
use metalbot_core::domain::batch::{BatchEvent, BatchState};
use metalbot_core::domain::error_kind::{ErrorClass, ErrorKind, HostError};
use metalbot_core::domain::event::EventBody;
use metalbot_core::domain::host::{HostName, Hosts};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::view::Failure;
use metalbot_core::domain::workflow::{Check, Plan, PowerIs, digest};
use metalbot_store::batch::{ApplyError, Batch};
use metalbot_store::{self as store, answered_within, caps, card, job, outbox, preflight, view};

/// Period of the task when nothing wakes it.
pub const PERIOD: Duration = Duration::from_millis(500);
/// Wait before a batch that could not be checked, or of which others have to check the rest, is looked at
/// again.
const AGAIN: Duration = Duration::from_secs(5);
/// Hosts of one batch that are checked at the same time.
const PARALLEL: usize = 512;

/// Parts of the task.
pub struct Checker {
    pub pool: PgPool,
    pub bmc: Arc<dyn Bmc>,
    pub hosts: Arc<dyn Hosts>,
    pub reachable: ReachableDatacenters,
    pub approvals: Vec<ApprovalRule>,
    /// Time after which an answer of the database is given up: the batches beside would keep the
    /// round going.
    pub patience: Duration,
    /// Batches of which only others have hosts to check, and when that was seen: they may wait for days.
    pub elsewhere: Mutex<HashMap<BatchId, Instant>>,
}

/// What is left of a batch's checks after this process has done its part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    Nothing,
    /// Hosts that this process does not reach.
    Elsewhere,
    /// Everything, since this process could not ask.
    All,
}

impl Checker {
    /// Checks all batches that wait, and those that come meanwhile: a batch of ten thousand silent
    /// BMCs must not delay one of three hosts.
    pub async fn run_once(self: Arc<Self>, lease: TaskLease) -> anyhow::Result<bool> {
        let mut known: HashSet<BatchId> = HashSet::new();
        let mut under_way = FuturesUnordered::new();
        let this = &*self;
        while !lease.is_last() {
            let waiting = store::batch::checking(&mut *self.pool.acquire().await?).await?;
            for id in self.without_elsewhere(waiting) {
                if known.insert(id) {
                    under_way.push(async move { (id, this.check_or_wait(id).await) });
                }
            }
            if under_way.is_empty() {
                break;
            }
            let ended = tokio::time::timeout(PERIOD, under_way.next()).await;
            if let Ok(Some((id, ()))) = ended {
                known.remove(&id);
            }
        }
        Ok(false)
    }

    /// Leaves out batches in which there was nothing to check here a moment ago.
    fn without_elsewhere(&self, mut waiting: Vec<BatchId>) -> Vec<BatchId> {
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        elsewhere.retain(|id, seen| seen.elapsed() < AGAIN && waiting.contains(id));
        waiting.retain(|id| !elsewhere.contains_key(id));
        waiting
    }

    /// Checks one batch. One that fails for a reason of ours is checked again after a while, and
    /// delays no other.
    async fn check_or_wait(&self, id: BatchId) {
        match self.check_batch(id).await {
            Ok(Left::Nothing) => {}
            Ok(Left::Elsewhere) => {
                let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
                elsewhere.insert(id, Instant::now());
            }
            Ok(Left::All) => tokio::time::sleep(AGAIN).await,
            Err(error) => {
                tracing::error!(batch = %id, %error, "the hosts of a batch cannot be checked");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn check_batch(&self, id: BatchId) -> Result<Left, ApplyError> {
        let read = answered_within(self.patience, self.read(id)).await?;
        let Some((batch, all, looked_at)) = read else { return Ok(Left::Nothing) };
        let hosts = all.iter().filter(|(_, datacenter)| self.reachable.contains(datacenter));
        let (hosts, datacenters): (Vec<HostName>, BTreeSet<String>) = hosts.cloned().unzip();
        if hosts.is_empty() && !all.is_empty() {
            return Ok(Left::Elsewhere);
        }
        let checks: Vec<Check> = batch.plan.checks.iter().copied().collect();
        let checked = hosts.into_iter().map(|host| async {
            let found = self.check_host(&checks, &host).await;
            (host, found)
        });
        let mut checked = stream::iter(checked).buffer_unordered(PARALLEL);
        let (mut unfit, mut on) = (Vec::new(), Vec::new());
        while let Some((host, found)) = checked.next().await {
            match found {
                Ok(Some(PowerIs::On)) => on.push(host),
                Ok(Some(PowerIs::Off) | None) => {}
                Err(error) if error.kind.class() == ErrorClass::Own => {
                    tracing::error!(batch = %id, %host, %error, "the hosts of a batch cannot be checked");
                    return Ok(Left::All);
                }
                Err(error) => unfit.push((host, error)),
            }
        }
        let written = async {
            let mut tx = self.pool.begin().await?;
            let left = self.conclude(&mut tx, id, &datacenters, unfit).await?;
            caps::seen_on(&mut tx, &on, looked_at).await?;
            reach(Point::CheckerBeforeCommit);
            tx.commit().await?;
            Ok(left)
        };
        answered_within(self.patience, written).await
    }

    /// The batch, its hosts that nobody has checked with their datacenters, and the database's time.
    async fn read(
        &self,
        id: BatchId,
    ) -> sqlx::Result<Option<(Batch, Vec<(HostName, String)>, OffsetDateTime)>> {
        let mut conn = self.pool.acquire().await?;
        let Some(batch) = store::batch::get(&mut conn, id).await? else { return Ok(None) };
        let hosts = preflight::hosts_to_check(&mut conn, id).await?;
        let looked_at = store::now(&mut conn).await?;
        Ok(Some((batch, hosts, looked_at)))
    }

    /// Returns the power state, where a check of the action asks for it.
    async fn check_host(
        &self,
        checks: &[Check],
        name: &HostName,
    ) -> Result<Option<PowerIs>, HostError> {
        let Some(host) = self.hosts.host(name) else {
            let message = format!("{name} is not in the inventory any more");
            return Err(HostError::new(ErrorKind::UnknownHost, message));
        };
        let mut seen = None;
        for wanted in checks {
            seen = Some(check(*wanted, &host, self.bmc.as_ref()).await?);
        }
        Ok(seen)
    }

    /// Writes what follows from the checks of these datacenters' hosts, unless somebody cancelled the
    /// batch meanwhile.
    async fn conclude(
        &self,
        tx: &mut PgTransaction<'_>,
        id: BatchId,
        datacenters: &BTreeSet<String>,
        mut unfit: Vec<(HostName, HostError)>,
    ) -> Result<Left, ApplyError> {
        let actor = Actor::system("checks");
        let Some(mut batch) = store::batch::lock(tx, id).await? else { return Ok(Left::Nothing) };
        if batch.state != BatchState::Checking {
            return Ok(Left::Nothing);
        }
        // Of what another process has checked meanwhile its word holds.
        let unchecked = preflight::hosts_to_check(tx, id).await?;
        let names: HashSet<&HostName> = unchecked.iter().map(|(host, _)| host).collect();
        unfit.retain(|(host, _)| names.contains(host));
        if !unfit.is_empty() {
            job::leave_out(tx, id, &unfit, &actor).await?;
        }
        let checked: Vec<String> = datacenters.iter().cloned().collect();
        preflight::mark_checked(tx, id, &checked).await?;
        if unchecked.iter().any(|(_, datacenter)| !datacenters.contains(datacenter)) {
            return Ok(Left::Elsewhere);
        }
        let failures = view::left_out(tx, id).await?;
        if !failures.is_empty() {
            job::cut_waves(tx, id, batch.wave, &batch.plan.rollout).await?;
        }
        let left = job::hosts(tx, id).await?;
        if left.is_empty() {
            let why = "no host passed the checks";
            store::batch::apply(tx, &mut batch, BatchEvent::Refuse, &actor, Some(why)).await?;
            // Its card is there already.
            card::touch(tx, id).await?;
        } else {
            let Plan { action, risk, .. } = &batch.plan;
            let by_owner = count_by_owner(left.iter().map(|(_, owner)| owner.as_str()));
            let needed = approval::requirements(&self.approvals, action, *risk, &by_owner);
            let smaller = digest(&batch.plan, left.iter().map(|(host, _)| host));
            store::plan::change(tx, &mut batch, smaller, needed.requirements.clone()).await?;
            store::approval::pass_checks(tx, &mut batch, &needed, &actor).await?;
        }
        notify_left_out(tx, &batch, failures, left.len()).await?;
        Ok(Left::Nothing)
    }
}

async fn notify_left_out(
    tx: &mut PgTransaction<'_>,
    batch: &Batch,
    failures: Vec<Failure>,
    left: usize,
) -> sqlx::Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    for failure in &failures {
        let key = format!("batch:{}:left_out:{}", batch.id.0, failure.kind);
        outbox::ticket(tx, &key, batch.id, failure.kind).await?;
    }
    let body = EventBody::ChecksFailed {
        submitter: batch.submitter.clone(),
        failures,
        passed: u32::try_from(left).unwrap_or(u32::MAX),
    };
    let key = format!("batch:{}:checked", batch.id.0);
    outbox::event(tx, &key, batch.id, body).await
}
