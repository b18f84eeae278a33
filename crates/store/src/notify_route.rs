//! Notices about the progress of a batch: in its thread by the setting of its channel, and to its
//! submitter by their preferences. Whoever changes a batch calls this in the same transaction.

use std::time::Duration;

use sqlx::{PgConnection, PgTransaction};

use super::batch::Batch;
use super::task_lease::interval;
use super::{corrupt, error_kind, job, outbox, preference, view};
use metalbot_core::domain::event::{Event, EventBody};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::notify::{NoticeTopic, route};
use metalbot_core::domain::rollout::WavePause;
use metalbot_core::domain::view::Failure;
use metalbot_core::domain::workflow::PLAN_VERSION;

/// Time for which failures are collected before the first notice about them.
const COLLECT: Duration = Duration::from_secs(2);
/// Least time between two notices about failures of one batch.
const PAUSE: Duration = Duration::from_secs(30);
/// Most notices about failures of one batch; the notice of its end names all.
const MOST: i32 = 10;

/// Queues an event for the batch's thread and for its submitter, as they prefer. Nobody is notified
/// of a batch without a channel: its submitter sees it where it was submitted.
pub async fn tell(
    tx: &mut PgTransaction<'_>,
    batch: &Batch,
    topic: NoticeTopic,
    key: &str,
    body: EventBody,
) -> sqlx::Result<()> {
    let Some(near) = batch.announced.clone() else { return Ok(()) };
    let setting = preference::channel(&mut *tx, &near).await?;
    let who = preference::of(&mut *tx, &batch.submitter).await?;
    let route = route(topic, &batch.plan.action, &setting, &who);
    let event = Event::new(batch.id, body);
    let notice = |mention| Notice::Event { event: event.clone(), mention };
    if route.thread {
        let thread = Audience::Thread { batch: batch.id };
        outbox::notice(&mut *tx, key, &thread, &notice(route.named)).await?;
    }
    if route.direct {
        let person = Audience::Person { login: batch.submitter.clone(), near };
        outbox::notice(&mut *tx, &format!("{key}:dm"), &person, &notice(true)).await?;
    }
    Ok(())
}

/// Batches that go on and have failures for which a notice is due.
pub async fn failing(conn: &mut PgConnection) -> sqlx::Result<Vec<BatchId>> {
    let ids = sqlx::query_scalar!(
        "select id from batch
         where state in ('running', 'paused') and next_failure_notice_at <= now()
           and failure_notice_count < $1 and plan_version <= $3
           and exists (select from job
                       where job.batch_id = batch.id and job.state in ('failed', 'quarantined')
                         and not failure_notified and ended_at <= now() - $2::interval)
         order by id limit 100",
        MOST,
        interval(COLLECT) as _,
        i32::from(PLAN_VERSION)
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(BatchId).collect())
}

/// Queues one notice of all failures of a locked batch that were in no notice yet.
pub async fn failures(tx: &mut PgTransaction<'_>, batch: &Batch) -> sqlx::Result<()> {
    let rows = sqlx::query!(
        "with picked as (
             select id from job
             where batch_id = $1 and state in ('failed', 'quarantined') and not failure_notified
             order by id for no key update)
         update job set failure_notified = true from picked where picked.id = job.id
         returning host, state, error_kind, error",
        batch.id.0
    )
    .fetch_all(&mut **tx)
    .await?;
    if rows.is_empty() {
        // Another process was faster.
        return Ok(());
    }
    let mut new: Vec<Failure> = Vec::new();
    for row in rows {
        let quarantined = row.state == JobState::Quarantined.as_str();
        let kind = error_kind(row.error_kind.as_deref());
        let host = row.host.parse().map_err(corrupt)?;
        match new.iter_mut().find(|one| one.kind == kind && one.quarantined == quarantined) {
            Some(one) => one.hosts.push(host),
            None => new.push(Failure {
                kind,
                error: row.error.unwrap_or_default(),
                hosts: vec![host],
                quarantined,
            }),
        }
    }
    new.sort_by_key(|one| (one.kind, one.quarantined));
    let number = sqlx::query_scalar!(
        "update batch set failure_notice_count = failure_notice_count + 1,
             next_failure_notice_at = now() + $2::interval
         where id = $1 returning failure_notice_count",
        batch.id.0,
        interval(PAUSE) as _
    )
    .fetch_one(&mut **tx)
    .await?;
    let counts = job::state_counts(&mut *tx, batch.id).await?;
    let key = format!("batch:{}:failing:{number}", batch.id.0);
    let body = EventBody::JobsFailed {
        submitter: batch.submitter.clone(),
        failures: new,
        failed: counts.failed + counts.quarantined,
        total: counts.total(),
    };
    tell(tx, batch, NoticeTopic::Failures, &key, body).await
}

/// Queues the notice that a wave of a locked batch is done and when the next one begins.
pub async fn wave(tx: &mut PgTransaction<'_>, batch: &Batch) -> sqlx::Result<()> {
    let waves = view::waves(&mut *tx, batch.id).await?;
    let counts = job::state_counts(&mut *tx, batch.id).await?;
    let key = format!("batch:{}:wave:{}", batch.id.0, batch.wave);
    let body = EventBody::WaveEnded {
        submitter: batch.submitter.clone(),
        wave: batch.wave.cast_unsigned(),
        waves,
        succeeded: counts.succeeded,
        failed: counts.failed + counts.quarantined,
        total: counts.total(),
        begins_at: batch.not_before,
        manual: batch.plan.rollout.wave_pause == Some(WavePause::Manual),
    };
    tell(tx, batch, NoticeTopic::Waves, &key, body).await
}
