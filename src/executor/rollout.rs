//! Conducts batches: starts approved ones, opens wave after wave, pauses at the failure budget, and
//! folds a batch into its final state when its last job has ended.
//!
//! Every decision is made under the batch's row lock from what the tables then say, so any replica
//! may run it at any time, and running it twice changes nothing.

use std::time::Duration;

use anyhow::Context;
use sqlx::{PgPool, PgTransaction};

use crate::domain::batch::{BatchEvent, BatchState, Verdict};
use crate::domain::caps::Caps;
use crate::domain::ids::BatchId;
use crate::domain::notice::{Audience, Notice};
use crate::domain::notify::Topic;
use crate::domain::principal::Actor;
use crate::domain::rollout::Next;
use crate::domain::workflow::Risk;
use crate::failpoint::{Point, reach};
use crate::store::batch::Batch;
use crate::store::wake::{Bell, ring};
use crate::store::{self, card, job, outbox, telling, view};
use crate::telemetry;

/// How long a round may wait for others to finish before it looks again.
pub const PERIOD: Duration = Duration::from_millis(500);

/// Looks at every batch that asks for attention. `true`: something changed, so look again.
pub async fn conduct(pool: &PgPool, caps: &Caps) -> anyhow::Result<bool> {
    let asking = store::batch::asking_attention(&mut *pool.acquire().await?).await?;
    let mut changed = false;
    for id in asking {
        match look_at(pool, caps, id).await {
            Ok(moved) => changed |= moved,
            // One that this version cannot read must not hold up the others.
            Err(error) => tracing::error!(batch = %id, error = format!("{error:#}"), "stuck"),
        }
    }
    Ok(changed)
}

async fn look_at(pool: &PgPool, caps: &Caps, id: BatchId) -> anyhow::Result<bool> {
    let mut tx = pool.begin().await?;
    let mut batch = store::batch::lock(&mut tx, id).await?.context("it is gone")?;
    store::batch::give_attention(&mut tx, id).await?;
    let moved = advance(&mut tx, caps, &mut batch).await?;
    if moved {
        store::batch::ask_attention(&mut tx, &[id]).await?;
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
) -> anyhow::Result<bool> {
    let actor = Actor::system("rollout");
    if batch.state == BatchState::Scheduled {
        let why = batch.state_reason.clone();
        store::batch::apply(tx, batch, BatchEvent::Start, &actor, why.as_deref()).await?;
    }
    let counts = job::rollout_counts(tx, batch.id, batch.wave, batch.failures_excused).await?;
    match batch.state {
        BatchState::Running | BatchState::Paused => {}
        // Hosts that were at work when it was cancelled have been finished; some may have failed.
        BatchState::Cancelled if counts.queued + counts.running == 0 => {
            if batch.started_at.is_some() {
                tell_the_end(tx, batch).await?;
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
        (Next::Queue(room), _) => queue(tx, caps, batch, room).await,
        (Next::NextWave, _) => {
            store::batch::open_next_wave(tx, batch).await?;
            telling::wave(tx, batch).await?;
            Ok(true)
        }
        (Next::Pause { failed, allowed }, _) => {
            let why = format!("{failed} failed, at most {allowed} may");
            store::batch::apply(tx, batch, BatchEvent::Pause, &actor, Some(&why)).await?;
            let pause = batch.pauses;
            let notice = Notice::Paused { batch: batch.id, pause, by: None, failed, allowed };
            let key = format!("batch:{}:paused:{pause}", batch.id.0);
            outbox::notice(tx, &key, &Audience::Thread { batch: batch.id }, &notice).await?;
            Ok(true)
        }
    }
}

/// Lets hosts start, as many as there is room for and the caps allow.
async fn queue(
    tx: &mut PgTransaction<'_>,
    caps: &Caps,
    batch: &Batch,
    room: u32,
) -> anyhow::Result<bool> {
    let capped = caps.any() && batch.plan.risk > Risk::Harmless;
    let down = if capped { job::down(tx).await? } else { Vec::new() };
    let caps = if capped { *caps } else { Caps::default() };
    let fit = caps.fit(&down, job::waiting(tx, batch.id, batch.wave).await?, room);
    store::batch::set_kept_by(tx, batch.id, fit.kept_by.as_deref()).await?;
    if fit.start.is_empty() {
        return Ok(false);
    }
    job::queue(tx, &fit.start).await?;
    card::touch(tx, batch.id).await?;
    ring(tx, Bell::Work).await?;
    Ok(true)
}

/// The final state, with its notice and tickets in the same transaction.
async fn finish(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    actor: &Actor,
) -> anyhow::Result<()> {
    let counts = job::state_counts(tx, batch.id).await?;
    let verdict = match counts.succeeded {
        all if all == counts.total() => Verdict::AllSucceeded,
        0 => Verdict::NoneSucceeded,
        _ => Verdict::SomeFailed,
    };
    store::batch::apply(tx, batch, BatchEvent::Finish(verdict), actor, None).await?;
    reach(Point::RolloutWhileFolding);
    tell_the_end(tx, batch).await
}

/// The notice and the tickets; told once however often it is asked.
async fn tell_the_end(tx: &mut PgTransaction<'_>, batch: &Batch) -> anyhow::Result<()> {
    let counts = job::state_counts(tx, batch.id).await?;
    metrics::counter!(telemetry::BATCHES_ENDED, "state" => batch.state.as_str()).increment(1);
    let failures = view::failures(tx, batch.id).await?;
    for failure in &failures {
        let key = format!("batch:{}:failed:{}", batch.id.0, failure.kind);
        outbox::ticket(tx, &key, batch.id, &failure.kind).await?;
    }
    let took = batch.started_at.zip(batch.finished_at).map(|(start, end)| end - start);
    let key = format!("batch:{}:completed", batch.id.0);
    telling::tell(tx, batch, Topic::Complete, &key, |named| Notice::Completed {
        batch: batch.id,
        submitter: batch.submitter.clone(),
        named,
        state: batch.state,
        succeeded: counts.succeeded,
        seconds: took.map_or(0, |took| took.whole_seconds().unsigned_abs()),
        failures: failures.clone(),
    })
    .await?;
    Ok(())
}

/// Tells of failures of batches that go on: many hosts in one notice. Returns whether there were any.
pub async fn tell_failures(pool: &PgPool) -> anyhow::Result<bool> {
    let failing = telling::failing(&mut *pool.acquire().await?).await?;
    for id in &failing {
        let mut tx = pool.begin().await?;
        let batch = store::batch::lock(&mut tx, *id).await?.context("it is gone")?;
        // Between the look and the lock it may have ended: its end tells of all.
        if matches!(batch.state, BatchState::Running | BatchState::Paused) {
            telling::failures(&mut tx, &batch).await?;
        }
        tx.commit().await?;
    }
    Ok(!failing.is_empty())
}
