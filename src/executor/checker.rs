//! Checks the hosts of new batches before anybody is asked to approve. Hosts that do not pass are
//! left out, with a ticket for each kind of error; the batch goes on with the others, or is refused
//! when none is left.
//!
//! Invariant: nothing is written before all hosts of a batch were checked, and then everything in
//! one transaction. A process that dies in between leaves a batch that the next one checks again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;

use crate::bmc::Bmc;
use crate::failpoint::{Point, reach};
use crate::preflight::check;
use crate::runtime::task::TaskLease;
use metalbot_core::domain::approval::{self, ApprovalRule, count_by_owner};
use metalbot_core::domain::batch::{BatchEvent, BatchState};
use metalbot_core::domain::error_kind::{ErrorKind, HostError};
use metalbot_core::domain::event::EventBody;
use metalbot_core::domain::host::{HostName, Hosts};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::view::Failure;
use metalbot_core::domain::workflow::{Check, Plan, PowerIs, digest};
use metalbot_store::batch::{ApplyError, Batch};
use metalbot_store::{self as store, answered_within, caps, card, job, outbox, view};

/// Period of the task when nothing wakes it.
pub const PERIOD: Duration = Duration::from_millis(500);
/// Wait before a batch that could not be checked is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Hosts of one batch that are checked at the same time.
const PARALLEL: usize = 512;

/// Parts of the task.
#[derive(Clone)]
pub struct Checker {
    pub pool: PgPool,
    pub bmc: Arc<dyn Bmc>,
    pub hosts: Arc<dyn Hosts>,
    pub approvals: Vec<ApprovalRule>,
    /// Time after which an answer of the database is given up: the batches beside would keep the
    /// round going.
    pub patience: Duration,
}

impl Checker {
    /// Checks all batches that wait, and those that come meanwhile: a batch of ten thousand silent
    /// BMCs must not delay one of three hosts.
    pub async fn run_once(self: Arc<Self>, lease: TaskLease) -> anyhow::Result<bool> {
        let mut known: HashSet<BatchId> = HashSet::new();
        let mut under_way = FuturesUnordered::new();
        let this = &*self;
        while !lease.is_last() {
            for id in store::batch::checking(&mut *self.pool.acquire().await?).await? {
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

    /// Checks one batch. One that fails for a reason of ours is checked again after a while, and
    /// delays no other.
    async fn check_or_wait(&self, id: BatchId) {
        if let Err(error) = self.check_batch(id).await {
            tracing::error!(batch = %id, %error, "the hosts of a batch cannot be checked");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn check_batch(&self, id: BatchId) -> Result<(), ApplyError> {
        let read = answered_within(self.patience, self.read(id)).await?;
        let Some((batch, hosts, looked_at)) = read else { return Ok(()) };
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
                Err(error) => unfit.push((host, error)),
            }
        }
        let written = async {
            let mut tx = self.pool.begin().await?;
            self.conclude(&mut tx, id, &unfit).await?;
            caps::seen_on(&mut tx, &on, looked_at).await?;
            reach(Point::CheckerBeforeCommit);
            Ok(tx.commit().await?)
        };
        answered_within(self.patience, written).await
    }

    /// The batch, its hosts, and the database's time.
    async fn read(
        &self,
        id: BatchId,
    ) -> sqlx::Result<Option<(Batch, Vec<HostName>, OffsetDateTime)>> {
        let mut conn = self.pool.acquire().await?;
        let Some(batch) = store::batch::get(&mut conn, id).await? else { return Ok(None) };
        let hosts = job::hosts(&mut conn, id).await?.into_iter().map(|(host, _)| host);
        let looked_at = store::now(&mut conn).await?;
        Ok(Some((batch, hosts.collect(), looked_at)))
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

    /// Writes what follows from the checks, unless somebody cancelled the batch meanwhile.
    async fn conclude(
        &self,
        tx: &mut PgTransaction<'_>,
        id: BatchId,
        unfit: &[(HostName, HostError)],
    ) -> Result<(), ApplyError> {
        let actor = Actor::system("checks");
        let Some(mut batch) = store::batch::lock(tx, id).await? else { return Ok(()) };
        if batch.state != BatchState::Checking {
            return Ok(());
        }
        if !unfit.is_empty() {
            job::leave_out(tx, id, unfit, &actor).await?;
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
        let failures = view::left_out(tx, id).await?;
        Ok(notify_left_out(tx, &batch, failures, left.len()).await?)
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
