//! Rollout of batches: starts approved ones, opens wave after wave, pauses at the failure budget, and
//! folds a batch into its final state when its last job has ended.
//!
//! Every decision is made under the batch's row lock from what the tables then say, so any replica
//! may run it at any time, and running it twice changes nothing.

use std::time::Duration;

use sqlx::{PgPool, PgTransaction};

use crate::failpoint::{Point, reach};
use crate::telemetry;
use metalbot_core::domain::batch::{BatchEvent, BatchResult, BatchState};
use metalbot_core::domain::caps::Caps;
use metalbot_core::domain::event::{EventBody, PauseCause};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::job::JobEvent;
use metalbot_core::domain::notify::NoticeTopic;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::rollout::{Next, Start, WavePause};
use metalbot_core::domain::workflow::Risk;
use metalbot_store::batch::{ApplyError, Batch};
use metalbot_store::notifier::{Topic, notify};
use metalbot_store::{self as store, card, job, notify_route, outbox, view};

/// Period of the task when nothing wakes it.
pub const PERIOD: Duration = Duration::from_millis(500);

/// Advances every batch that needs to be reconciled; `true` when something changed, so that there may
/// be more to do.
pub async fn conduct(pool: &PgPool, caps: &Caps) -> anyhow::Result<bool> {
    let ids = store::batch::needing_reconcile(&mut *pool.acquire().await?).await?;
    let mut changed = false;
    for id in ids {
        match reconcile(pool, caps, id).await {
            Ok(moved) => changed |= moved,
            // One that this version cannot read must not delay the others.
            Err(error) => tracing::error!(batch = %id, %error, "a batch cannot be advanced"),
        }
    }
    Ok(changed)
}

async fn reconcile(pool: &PgPool, caps: &Caps, id: BatchId) -> Result<bool, ApplyError> {
    let mut tx = pool.begin().await?;
    let mut batch = store::batch::lock(&mut tx, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    store::batch::mark_reconciled(&mut tx, id).await?;
    let moved = advance(&mut tx, caps, &mut batch).await?;
    if moved {
        store::batch::request_reconcile(&mut tx, &[id]).await?;
    }
    reach(Point::RolloutBeforeCommit);
    tx.commit().await?;
    if batch.state.is_final() {
        reach(Point::RolloutAfterFold);
    }
    Ok(moved)
}

async fn advance(
    tx: &mut PgTransaction<'_>,
    caps: &Caps,
    batch: &mut Batch,
) -> Result<bool, ApplyError> {
    let actor = Actor::system("rollout");
    if batch.state == BatchState::Scheduled && !start(tx, batch, &actor).await? {
        return Ok(false);
    }
    if batch.state == BatchState::Running && batch.not_before.is_some() && batch.until().is_none() {
        store::batch::end_wait(tx, batch).await?;
    }
    let counts = job::rollout_counts(tx, batch).await?;
    match batch.state {
        BatchState::Running | BatchState::Paused => {}
        // Jobs whose hosts nobody had touched were taken back.
        BatchState::Cancelled if counts.pending_in_wave + counts.pending_later > 0 => {
            job::apply(tx, batch.id, JobEvent::Cancel, None, &actor).await?;
            return Ok(true);
        }
        // Hosts that were at work when it was cancelled have been finished; some may have failed.
        BatchState::Cancelled if counts.queued + counts.running == 0 => {
            if batch.started_at.is_some() {
                notify_end(tx, batch).await?;
            }
            return Ok(false);
        }
        _ => return Ok(false),
    }
    match (batch.plan.rollout.next(counts), batch.state) {
        (Next::Finish, _) => {
            finish(tx, batch, &actor).await?;
            Ok(true)
        }
        (_, BatchState::Paused) | (Next::Wait, _) => Ok(false),
        (Next::Queue(_), _) if batch.until().is_some() => Ok(false),
        (Next::Queue(at_most), _) => Ok(queue(tx, caps, batch, at_most).await?),
        (Next::NextWave, _) => {
            next_wave(tx, batch, &actor).await?;
            Ok(true)
        }
        (Next::Pause { failed, failed_previously, allowed }, _) => {
            let before = match failed_previously {
                0 => String::new(),
                _ => format!(" and {failed_previously} were bad before"),
            };
            let why = format!("{failed} failed{before}, at most {allowed} may");
            let cause = PauseCause::FailureBudget { failed, failed_previously, allowed };
            pause(tx, batch, &actor, &why, cause).await?;
            Ok(true)
        }
    }
}

/// Starts an approved batch when its time has come. `false`: it is not started.
async fn start(
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
        let key = format!("batch:{}:scheduled", batch.id.0);
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
    let why = batch.state_reason.clone();
    store::batch::apply(tx, batch, BatchEvent::Start, actor, why.as_deref()).await?;
    if batch.plan.rollout.max_fail.is_some() {
        job::mark_failed_previously(tx, batch.id, batch.retry_of).await?;
    }
    Ok(true)
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
    let (id, pause_number) = (batch.id, batch.pause_count);
    let key = format!("batch:{}:paused:{pause_number}", id.0);
    outbox::event(tx, &key, id, EventBody::Paused { pause_number, cause }).await?;
    Ok(())
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
