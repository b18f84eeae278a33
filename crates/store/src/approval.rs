//! Approval of batches: when it is due, whom it was asked of, and whether it was found to stand.

use sqlx::types::Json;
use sqlx::{PgConnection, PgTransaction};

use super::batch::{ApplyError, Batch, apply};
use super::task_lease::interval;
use metalbot_core::domain::approval::{Needed, Requirement};
use metalbot_core::domain::batch::BatchEvent;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::workflow::PLAN_VERSION;

/// Ends the checking of a batch: asks for approval or, where policy asks nobody, schedules it.
pub async fn pass_checks(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    needed: &Needed,
    actor: &Actor,
) -> Result<(), ApplyError> {
    if needed.requirements.is_empty() {
        let nobody = Some("no approval is needed");
        return apply(tx, batch, BatchEvent::Approve, actor, nobody).await;
    }
    set_expiry(tx, batch, needed.expires).await?;
    apply(tx, batch, BatchEvent::AskApproval, actor, None).await
}

/// Sets the time at which the approval expires: at the latest when the batch must start.
async fn set_expiry(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    after: std::time::Duration,
) -> sqlx::Result<()> {
    batch.expires_at = sqlx::query_scalar!(
        "update batch set expires_at = least(now() + $2::interval, $3::timestamptz)
         where id = $1 returning expires_at",
        batch.id.0,
        interval(after) as _,
        batch.plan.rollout.approve_by()
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(())
}

/// Returns whether work on a host of a batch has begun. The batch must be locked.
pub async fn has_begun(tx: &mut PgTransaction<'_>, id: BatchId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select begun_at is not null as "begun!" from batch where id = $1"#, id.0)
        .fetch_one(&mut **tx)
        .await
}

/// Stores that the approval of a locked batch was found to stand for the hosts of its open wave.
pub async fn mark_checked(tx: &mut PgTransaction<'_>, batch: &mut Batch) -> sqlx::Result<()> {
    sqlx::query!(
        "update batch set approval_checked_at = now(), approval_checked_wave = wave,
             approval_lost_at = null
         where id = $1",
        batch.id.0
    )
    .execute(&mut **tx)
    .await?;
    (batch.approval_checked_wave, batch.approval_lost_at) = (Some(batch.wave), None);
    Ok(())
}

/// Takes a locked batch on which no work has begun back to waiting for approval.
pub async fn ask_again(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    expires: std::time::Duration,
    actor: &Actor,
    why: &str,
) -> Result<(), ApplyError> {
    apply(tx, batch, BatchEvent::AskAgain, actor, Some(why)).await?;
    set_expiry(tx, batch, expires).await?;
    Ok(begin_round(tx, batch).await?)
}

/// Pauses a locked batch until it is approved again, however long that takes.
pub async fn pause(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    actor: &Actor,
    why: &str,
) -> Result<(), ApplyError> {
    apply(tx, batch, BatchEvent::Pause, actor, Some(why)).await?;
    Ok(lose_while_paused(tx, batch).await?)
}

/// Lets a locked batch that is paused go on when it is approved again, and not before.
pub async fn lose_while_paused(tx: &mut PgTransaction<'_>, batch: &mut Batch) -> sqlx::Result<()> {
    sqlx::query!(
        "update batch set approval_lost_at = now(), expires_at = null where id = $1",
        batch.id.0
    )
    .execute(&mut **tx)
    .await?;
    (batch.approval_lost_at, batch.expires_at) = (Some(batch.now), None);
    begin_round(tx, batch).await
}

/// Lets the approvers be asked again.
async fn begin_round(tx: &mut PgTransaction<'_>, batch: &mut Batch) -> sqlx::Result<()> {
    batch.approval_round = sqlx::query_scalar!(
        "update batch set approval_round = approval_round + 1, approval_checked_wave = null,
             approvers_notified_at = null, approvers_reminded_at = null
         where id = $1 returning approval_round",
        batch.id.0
    )
    .fetch_one(&mut **tx)
    .await?;
    batch.approval_checked_wave = None;
    Ok(())
}

/// Replaces what the owners of a locked batch's hosts require.
pub async fn change_requirements(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    requirements: Vec<Requirement>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update batch set requirements = $2 where id = $1",
        batch.id.0,
        Json(&requirements) as _
    )
    .execute(&mut **tx)
    .await?;
    batch.requirements = requirements;
    Ok(())
}

/// Batches whose approval did not come in time.
pub async fn overdue(conn: &mut PgConnection) -> sqlx::Result<Vec<BatchId>> {
    let ids = sqlx::query_scalar!(
        "select id from batch where state = 'awaiting_approval' and expires_at <= now()
           and plan_version <= $1
         order by id limit 100",
        i32::from(PLAN_VERSION)
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(BatchId).collect())
}

/// Batches whose approvers were not notified yet, or are to be reminded: `before` the expiry, or when
/// a quarter of the time is left if that is less.
pub async fn approvers_to_notify(
    conn: &mut PgConnection,
    before: std::time::Duration,
) -> sqlx::Result<Vec<BatchId>> {
    let ids = sqlx::query_scalar!(
        "select id from batch
         where (state = 'awaiting_approval' and approvers_reminded_at is null
                or state = 'paused' and approval_lost_at is not null
                   and approvers_notified_at is null)
           and plan_version <= $2
           and (approvers_notified_at is null
                or expires_at - least($1::interval, (expires_at - approvers_notified_at) / 4)
                   <= now())
         order by id limit 100",
        interval(before) as _,
        i32::from(PLAN_VERSION)
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(BatchId).collect())
}

/// Marks the approvers of a locked batch as notified, or as reminded if they were notified before:
/// `true` for a reminder. `None`: there is nothing to be said now.
pub async fn mark_approvers_notified(
    tx: &mut PgTransaction<'_>,
    id: BatchId,
    before: std::time::Duration,
) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar!(
        r#"update batch set approvers_notified_at = coalesce(approvers_notified_at, now()),
               approvers_reminded_at = case when approvers_notified_at is not null then now() end
           where id = $1 and approvers_reminded_at is null
             and (approvers_notified_at is null
                  or expires_at - least($2::interval, (expires_at - approvers_notified_at) / 4)
                     <= now())
           returning approvers_reminded_at is not null as "reminder!""#,
        id.0,
        interval(before) as _
    )
    .fetch_optional(&mut **tx)
    .await
}
