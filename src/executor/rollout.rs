//! Rollout of batches: starts approved ones, opens wave after wave, pauses at the failure budget, and
//! folds a batch into its final state when its last job has ended.
//!
//! Every decision is made under the batch's row lock from what the tables then say, so any replica
//! may run it at any time, and running it twice changes nothing. Before a batch starts and before each
//! wave directory and inventory are asked whether its approval stands ([`approval_check`]), with no
//! transaction open.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, PgTransaction};

use crate::app::approval_check::{
    self, ApprovalFacts, ApprovalStanding, AskError, LostApproval, approval_round_key,
};
use crate::failpoint::{Point, reach};
use crate::telemetry;
use metalbot_core::domain::approval::{ApprovalLoss, ApprovalRule};
use metalbot_core::domain::batch::{BatchEvent, BatchResult, BatchState};
use metalbot_core::domain::caps::Caps;
use metalbot_core::domain::event::{EventBody, PauseCause};
use metalbot_core::domain::host::Hosts;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::job::JobEvent;
use metalbot_core::domain::notify::NoticeTopic;
use metalbot_core::domain::people::People;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::rollout::{Next, Start, WavePause};
use metalbot_core::domain::workflow::Risk;
use metalbot_store::batch::{ApplyError, Batch};
use metalbot_store::notifier::{Topic, notify};
use metalbot_store::{self as store, card, job, notify_route, outbox, view};

/// Period of the task when nothing wakes it.
pub const PERIOD: Duration = Duration::from_millis(500);

/// Parts of the task.
#[derive(Clone)]
pub struct Conductor {
    pub pool: PgPool,
    pub caps: Caps,
    pub people: Arc<dyn People>,
    pub hosts: Arc<dyn Hosts>,
    pub approvals: Vec<ApprovalRule>,
}

/// Effect of one look at a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Changed,
    Unchanged,
    /// Directory and inventory must be asked first; nothing was changed.
    Ask,
}

/// Error of a batch that cannot be advanced now.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Conductor {
    /// Advances every batch that needs to be reconciled; `true` when something changed, so that there
    /// may be more to do.
    pub async fn run_once(self: Arc<Self>) -> anyhow::Result<bool> {
        let ids = store::batch::needing_reconcile(&mut *self.pool.acquire().await?).await?;
        let mut changed = false;
        for id in ids {
            match self.reconcile(id).await {
                Ok(moved) => changed |= moved,
                Err(ReconcileError::Ask(AskError::Away(away))) => {
                    tracing::warn!(batch = %id, %away, "a batch waits until its approval can be checked");
                }
                // One that this version cannot read must not delay the others.
                Err(error) => tracing::error!(batch = %id, %error, "a batch cannot be advanced"),
            }
        }
        Ok(changed)
    }

    async fn reconcile(&self, id: BatchId) -> Result<bool, ReconcileError> {
        let mut facts = None;
        loop {
            match self.advance_once(id, facts.as_ref()).await? {
                Progress::Ask => {
                    let (people, hosts) = (self.people.as_ref(), self.hosts.as_ref());
                    facts = Some(approval_check::ask(&self.pool, people, hosts, id).await?);
                }
                progress => return Ok(progress == Progress::Changed),
            }
        }
    }

    async fn advance_once(
        &self,
        id: BatchId,
        facts: Option<&ApprovalFacts>,
    ) -> Result<Progress, ApplyError> {
        let mut tx = self.pool.begin().await?;
        let mut batch = store::batch::lock(&mut tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
        store::batch::mark_reconciled(&mut tx, id).await?;
        let progress = self.advance(&mut tx, &mut batch, facts).await?;
        match progress {
            Progress::Ask => return Ok(progress),
            Progress::Changed => store::batch::request_reconcile(&mut tx, &[id]).await?,
            Progress::Unchanged => {}
        }
        reach(Point::RolloutBeforeCommit);
        tx.commit().await?;
        if batch.state.is_final() {
            reach(Point::RolloutAfterFold);
        }
        Ok(progress)
    }

    async fn advance(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &mut Batch,
        facts: Option<&ApprovalFacts>,
    ) -> Result<Progress, ApplyError> {
        let actor = Actor::system("rollout");
        if batch.state == BatchState::Scheduled {
            if !may_start(tx, batch, &actor).await? {
                return Ok(Progress::Unchanged);
            }
            if let Some(progress) = self.check_approval(tx, batch, facts, &actor).await? {
                return Ok(progress);
            }
            start(tx, batch, &actor).await?;
        }
        if batch.state == BatchState::Running
            && batch.not_before.is_some()
            && batch.until().is_none()
        {
            store::batch::end_wait(tx, batch).await?;
        }
        let counts = job::rollout_counts(tx, batch).await?;
        match batch.state {
            BatchState::Running | BatchState::Paused => {}
            // Jobs whose hosts nobody had touched were taken back.
            BatchState::Cancelled if counts.pending_in_wave + counts.pending_later > 0 => {
                job::apply(tx, batch.id, JobEvent::Cancel, None, &actor).await?;
                return Ok(Progress::Changed);
            }
            // Hosts that were at work when it was cancelled have been finished; some may have failed.
            BatchState::Cancelled if counts.queued + counts.running == 0 => {
                if batch.started_at.is_some() || counts.failed > 0 {
                    notify_end(tx, batch).await?;
                }
                return Ok(Progress::Unchanged);
            }
            _ => return Ok(Progress::Unchanged),
        }
        match (batch.plan.rollout.next(counts), batch.state) {
            (Next::Finish, _) => finish(tx, batch, &actor).await?,
            (_, BatchState::Paused) | (Next::Wait, _) => return Ok(Progress::Unchanged),
            (Next::Queue(_), _) if batch.until().is_some() => return Ok(Progress::Unchanged),
            (Next::Queue(at_most), _) => {
                if batch.approval_checked_wave != Some(batch.wave)
                    && let Some(progress) = self.check_approval(tx, batch, facts, &actor).await?
                {
                    return Ok(progress);
                }
                if !queue(tx, &self.caps, batch, at_most).await? {
                    return Ok(Progress::Unchanged);
                }
            }
            (Next::NextWave, _) => next_wave(tx, batch, &actor).await?,
            (Next::Pause { failed, failed_previously, allowed }, _) => {
                let before = match failed_previously {
                    0 => String::new(),
                    _ => format!(" and {failed_previously} were bad before"),
                };
                let why = format!("{failed} failed{before}, at most {allowed} may");
                let cause = PauseCause::FailureBudget { failed, failed_previously, allowed };
                pause(tx, batch, &actor, &why, cause).await?;
            }
        }
        Ok(Progress::Changed)
    }

    /// Checks whether the approval stands, for the hosts of the open wave. `None`: it does; otherwise
    /// no host may start now.
    async fn check_approval(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &mut Batch,
        facts: Option<&ApprovalFacts>,
        actor: &Actor,
    ) -> Result<Option<Progress>, ApplyError> {
        let Some(facts) = facts else { return Ok(Some(Progress::Ask)) };
        match approval_check::settle(tx, &self.approvals, facts, batch).await? {
            ApprovalStanding::Stands => Ok(None),
            ApprovalStanding::Outdated => Ok(Some(Progress::Ask)),
            ApprovalStanding::Lost(loss) => {
                self.lose_approval(tx, batch, actor, loss).await?;
                Ok(Some(Progress::Changed))
            }
        }
    }

    async fn lose_approval(
        &self,
        tx: &mut PgTransaction<'_>,
        batch: &mut Batch,
        actor: &Actor,
        loss: ApprovalLoss,
    ) -> Result<(), ApplyError> {
        let why = loss.to_string();
        match approval_check::lose(tx, &self.approvals, batch, actor, &why).await? {
            LostApproval::Paused => {
                notify_paused(tx, batch, PauseCause::ApprovalLost(loss)).await?;
            }
            LostApproval::Waits => {
                let body = EventBody::ApprovalLost { submitter: batch.submitter.clone(), loss };
                let key = approval_round_key(batch, "approval_lost");
                outbox::event(tx, &key, batch.id, body).await?;
            }
        }
        Ok(())
    }
}

/// Returns whether the time of a scheduled batch has come. People are told when it will, and that it
/// went by.
async fn may_start(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    actor: &Actor,
) -> Result<bool, ApplyError> {
    if let Some(until) = batch.until() {
        let hosts = job::hosts(tx, batch.id).await?.into_iter().map(|(host, _)| host).collect();
        let body = EventBody::Scheduled {
            action: batch.plan.action.clone(),
            hosts,
            starts_at: until,
            countdown: batch.plan.rollout.start.map(Start::time) != Some(until),
        };
        let key = approval_round_key(batch, "scheduled");
        outbox::event(tx, &key, batch.id, body).await?;
        return Ok(false);
    }
    if let Some(due) = batch.not_before
        && batch.plan.rollout.is_missed(due, batch.now)
    {
        let why = "its time went by and nothing was there to start it";
        store::batch::apply(tx, batch, BatchEvent::Expire, actor, Some(why)).await?;
        job::apply(tx, batch.id, JobEvent::Cancel, None, actor).await?;
        let submitter = batch.submitter.clone();
        let body = EventBody::StartMissed { submitter, starts_at: due };
        let key = format!("batch:{}:missed", batch.id.0);
        outbox::event(tx, &key, batch.id, body).await?;
        return Ok(false);
    }
    Ok(true)
}

/// Starts an approved batch.
async fn start(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    actor: &Actor,
) -> Result<(), ApplyError> {
    let why = batch.state_reason.clone();
    store::batch::apply(tx, batch, BatchEvent::Start, actor, why.as_deref()).await?;
    if batch.plan.rollout.max_fail.is_some() {
        job::mark_failed_previously(tx, batch.id, batch.retry_of).await?;
    }
    Ok(())
}

/// Opens the next wave, which may have to wait for a time or for a person.
async fn next_wave(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    actor: &Actor,
) -> Result<(), ApplyError> {
    let wait = match batch.plan.rollout.wave_pause {
        Some(WavePause::Seconds(seconds)) => Some(Duration::from_secs(seconds)),
        Some(WavePause::Manual) | None => None,
    };
    store::batch::open_next_wave(tx, batch, wait).await?;
    notify_route::wave(tx, batch).await?;
    if batch.plan.rollout.wave_pause == Some(WavePause::Manual) {
        // The wave is open: whoever resumes lets it begin.
        let done = batch.wave;
        let why = format!("wave {done} is done, and the next one waits for somebody to resume");
        pause(tx, batch, actor, &why, PauseCause::WaveEnded { wave: done }).await?;
    }
    Ok(())
}

async fn pause(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    actor: &Actor,
    why: &str,
    cause: PauseCause,
) -> Result<(), ApplyError> {
    store::batch::apply(tx, batch, BatchEvent::Pause, actor, Some(why)).await?;
    job::apply(tx, batch.id, JobEvent::Unqueue, None, actor).await?;
    Ok(notify_paused(tx, batch, cause).await?)
}

async fn notify_paused(
    tx: &mut PgTransaction<'_>,
    batch: &Batch,
    cause: PauseCause,
) -> sqlx::Result<()> {
    let (id, pause_number) = (batch.id, batch.pause_count);
    let key = format!("batch:{}:paused:{pause_number}", id.0);
    outbox::event(tx, &key, id, EventBody::Paused { pause_number, cause }).await
}

/// Queues jobs, at most this many and as many as the caps allow; `false` when none was queued.
async fn queue(
    tx: &mut PgTransaction<'_>,
    caps: &Caps,
    batch: &Batch,
    at_most: u32,
) -> sqlx::Result<bool> {
    let capped = caps.any() && batch.plan.risk > Risk::Harmless;
    let down = if capped { store::caps::down(tx).await? } else { Vec::new() };
    let caps = if capped { *caps } else { Caps::default() };
    let fit = caps.fit(&down, store::caps::waiting(tx, batch.id, batch.wave).await?, at_most);
    store::batch::set_blocked_by(tx, batch.id, fit.blocked_by.as_deref()).await?;
    if fit.start.is_empty() {
        return Ok(false);
    }
    job::queue(tx, &fit.start).await?;
    card::touch(tx, batch.id).await?;
    notify(tx, Topic::Work).await?;
    Ok(true)
}

/// Gives a batch its final state, with its notice and tickets in the same transaction.
async fn finish(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    actor: &Actor,
) -> Result<(), ApplyError> {
    let counts = job::state_counts(tx, batch.id).await?;
    let verdict = match counts.succeeded {
        all if all == counts.total() => BatchResult::AllSucceeded,
        0 => BatchResult::NoneSucceeded,
        _ => BatchResult::SomeFailed,
    };
    store::batch::apply(tx, batch, BatchEvent::Finish(verdict), actor, None).await?;
    reach(Point::RolloutWhileFolding);
    Ok(notify_end(tx, batch).await?)
}

/// Queues the notice of the end and the tickets, once however often it is called.
async fn notify_end(tx: &mut PgTransaction<'_>, batch: &Batch) -> sqlx::Result<()> {
    let counts = job::state_counts(tx, batch.id).await?;
    metrics::counter!(telemetry::BATCHES_ENDED, "state" => batch.state.as_str()).increment(1);
    let failures = view::failures(tx, batch.id).await?;
    for failure in &failures {
        let key = format!("batch:{}:failed:{}", batch.id.0, failure.kind);
        outbox::ticket(tx, &key, batch.id, failure.kind).await?;
    }
    let took = batch.started_at.zip(batch.finished_at).map(|(start, end)| end - start);
    let key = format!("batch:{}:completed", batch.id.0);
    let body = EventBody::Ended {
        submitter: batch.submitter.clone(),
        state: batch.state,
        succeeded: counts.succeeded,
        seconds: took.map_or(0, |took| took.whole_seconds().unsigned_abs()),
        failures,
    };
    notify_route::tell(tx, batch, NoticeTopic::Complete, &key, body).await
}

/// Queues notices of failures of batches that go on, many hosts in one. Returns whether there were
/// any.
pub async fn tell_failures(pool: &PgPool) -> anyhow::Result<bool> {
    let failing = notify_route::failing(&mut *pool.acquire().await?).await?;
    let mut any = false;
    for id in failing {
        match notify_failures_of(pool, id).await {
            Ok(()) => any = true,
            // One that this version cannot read must not delay the others.
            Err(error) => {
                tracing::error!(batch = %id, %error, "failures of a batch cannot be notified");
            }
        }
    }
    Ok(any)
}

async fn notify_failures_of(pool: &PgPool, id: BatchId) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    let batch = store::batch::lock(&mut tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    // It may have ended before it was locked: the notice of its end names all failures.
    if matches!(batch.state, BatchState::Running | BatchState::Paused) {
        notify_route::failures(&mut tx, &batch).await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use metalbot_core::domain::host::{Host, HostName};
    use metalbot_core::domain::people::DirectoryAway;
    use metalbot_core::domain::principal::Principal;

    use super::*;

    /// Directory that is away now and then, and an inventory without hosts.
    #[derive(Default)]
    struct Site {
        away: AtomicBool,
    }

    impl People for Site {
        fn by_login(&self, login: &str) -> Option<Principal> {
            let groups = ["web-owners".to_owned()].into();
            Some(Principal { login: login.into(), name: login.into(), groups })
        }

        fn account(&self, _: &str, _: &str) -> Option<String> {
            None
        }

        fn email(&self, _: &str) -> Option<String> {
            None
        }

        fn jira_account(&self, _: &str, _: &str) -> Option<String> {
            None
        }

        fn ask(&self, login: &str) -> Result<Option<Principal>, DirectoryAway> {
            match self.away.load(Ordering::Relaxed) {
                true => Err(DirectoryAway("for this test".into())),
                false => Ok(self.by_login(login)),
            }
        }
    }

    impl Hosts for Site {
        fn host(&self, _: &HostName) -> Option<Host> {
            None
        }

        fn names(&self) -> Vec<HostName> {
            Vec::new()
        }
    }

    /// A batch that was approved, and one whose plan is of a newer release.
    const BATCHES: &str = r#"
        insert into batch (action, risk, plan, plan_version, digest, submitter, state, requirements,
            origin)
        select 'reboot', 'disruptive', jsonb_build_object('version', version, 'action', 'reboot',
                'risk', 'disruptive', 'params', '{}'::jsonb, 'steps', '[]'::jsonb,
                'rollout', '{"waves": [], "max_concurrent": null, "max_fail": null}'::jsonb),
            version, sha256(''), 'alice', 'scheduled',
            '[{"owner": "web-owners", "hosts": 1, "quorum": 1, "from": ["web-owners"]}]',
            '{"origin": "reclaim"}'
        from unnest(array[1, 9999]) as version;
        insert into decision (batch_id, digest, login, verdict, owners, via)
        select id, digest, 'bob', 'approve', array['web-owners'], 'console' from batch;
        insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address, bmc_credentials,
            wave, state)
        select id, 'web' || id, 'web-owners', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'pending'
        from batch;"#;

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn what_cannot_be_judged_now_waits(pool: PgPool) {
        sqlx::raw_sql(BATCHES).execute(&pool).await.unwrap();
        let site = Arc::new(Site::default());
        let conductor = Arc::new(Conductor {
            pool: pool.clone(),
            caps: Caps::default(),
            people: Arc::clone(&site) as _,
            hosts: Arc::clone(&site) as _,
            approvals: Vec::new(),
        });
        let states = async || -> Vec<String> {
            let query = "select batch.state || ', ' || job.state
                 from batch join job on batch_id = batch.id order by batch.id";
            sqlx::query_scalar(query).fetch_all(&pool).await.unwrap()
        };
        site.away.store(true, Ordering::Relaxed);
        assert!(!Arc::clone(&conductor).run_once().await.unwrap());
        assert_eq!(states().await, ["scheduled, pending", "scheduled, pending"]);
        site.away.store(false, Ordering::Relaxed);
        assert!(Arc::clone(&conductor).run_once().await.unwrap());
        // What is under way goes on, and the newer release's batch is left to it.
        site.away.store(true, Ordering::Relaxed);
        assert!(!Arc::clone(&conductor).run_once().await.unwrap());
        assert_eq!(states().await, ["running, queued", "scheduled, pending"]);
    }
}
