//! Batches. [`apply`] is the only function that changes a batch's state.

use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgTransaction};
use time::OffsetDateTime;

use super::lock::ClaimLock;
use super::notifier::{Topic, notify};
use super::task_lease::interval;
use super::{audit, card, corrupt};
use metalbot_core::domain::approval::Requirement;
use metalbot_core::domain::batch::{BatchEvent, BatchState, IllegalBatchEvent, next};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::origin::Origin;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::workflow::{Digest, PLAN_VERSION, Plan};

/// A batch as stored.
#[derive(Clone, Debug)]
pub struct Batch {
    pub id: BatchId,
    pub plan: Plan,
    pub digest: Digest,
    pub submitter: String,
    pub reason: Option<String>,
    pub state: BatchState,
    pub state_reason: Option<String>,
    pub requirements: Vec<Requirement>,
    /// By which way it was asked for.
    pub origin: Origin,
    /// Place of its card and thread; `None` for a batch that is announced nowhere.
    pub announced: Option<ChatLocation>,
    pub retry_of: Option<BatchId>,
    /// Index of the wave whose hosts may start.
    pub wave: i32,
    pub failures_excused: i32,
    /// Set when somebody resumed although hosts had failed in the batch before: they count no more
    /// until they fail again.
    pub failed_previously_excused: bool,
    /// Reason why no further hosts start although it is their turn, for people.
    pub blocked_by: Option<String>,
    /// Number of pauses so far.
    pub pause_count: i32,
    /// Index of the wave for whose hosts the approval was found to stand; `None`: people are to be asked
    /// before further hosts start.
    pub approval_checked_wave: Option<i32>,
    /// Time at which it was paused since its approval does not stand any more.
    pub approval_lost_at: Option<OffsetDateTime>,
    /// How often it has waited for approval again.
    pub approval_round: i32,
    /// Time at which a scheduled batch starts, or the open wave of a running one may begin.
    pub not_before: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
    /// Set when its approval did not come in time, by the database's clock.
    pub overdue: bool,
    /// Database's time when this was read.
    pub now: OffsetDateTime,
}

impl Batch {
    /// Time that it waits for, if that is still to come.
    pub fn until(&self) -> Option<OffsetDateTime> {
        self.not_before.filter(|until| *until > self.now)
    }

    /// True for a paused batch that a new approval resumes.
    pub fn lacks_approval(&self) -> bool {
        self.state == BatchState::Paused && self.approval_lost_at.is_some()
    }
}

/// Batch to be stored.
#[derive(Clone, Debug)]
pub struct NewBatch<'a> {
    pub plan: &'a Plan,
    pub digest: Digest,
    pub submitter: &'a str,
    pub reason: Option<&'a str>,
    pub requirements: &'a [Requirement],
    pub origin: &'a Origin,
    /// Channel of its card, if it gets one.
    pub announced: Option<&'a ChatLocation>,
    pub retry_of: Option<BatchId>,
}

/// Error of a change of state; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Illegal(#[from] IllegalBatchEvent),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

struct Row {
    id: i64,
    plan: Json<Plan>,
    digest: Vec<u8>,
    submitter: String,
    reason: Option<String>,
    state: String,
    state_reason: Option<String>,
    requirements: Json<Vec<Requirement>>,
    origin: Json<Origin>,
    platform: Option<String>,
    channel: Option<String>,
    retry_of: Option<i64>,
    wave: i32,
    failures_excused: i32,
    failed_previously_excused: bool,
    blocked_by: Option<String>,
    pause_count: i32,
    approval_checked_wave: Option<i32>,
    approval_lost_at: Option<OffsetDateTime>,
    approval_round: i32,
    not_before: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    started_at: Option<OffsetDateTime>,
    finished_at: Option<OffsetDateTime>,
    overdue: bool,
    now: OffsetDateTime,
}

impl TryFrom<Row> for Batch {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Batch> {
        let digest: [u8; 32] =
            row.digest.try_into().map_err(|_| sqlx::Error::Protocol("digest length".into()))?;
        Ok(Batch {
            id: BatchId(row.id),
            plan: row.plan.0,
            digest: Digest(digest),
            submitter: row.submitter,
            reason: row.reason,
            state: row.state.parse().map_err(corrupt)?,
            state_reason: row.state_reason,
            requirements: row.requirements.0,
            origin: row.origin.0,
            announced: row
                .platform
                .zip(row.channel)
                .map(|(platform, channel)| ChatLocation::channel(platform, channel)),
            retry_of: row.retry_of.map(BatchId),
            wave: row.wave,
            failures_excused: row.failures_excused,
            failed_previously_excused: row.failed_previously_excused,
            blocked_by: row.blocked_by,
            pause_count: row.pause_count,
            approval_checked_wave: row.approval_checked_wave,
            approval_lost_at: row.approval_lost_at,
            approval_round: row.approval_round,
            not_before: row.not_before,
            created_at: row.created_at,
            expires_at: row.expires_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            overdue: row.overdue,
            now: row.now,
        })
    }
}

/// Stores a new batch in state `Checking`. Needs the admission locks of its hosts.
pub async fn insert(
    tx: &mut PgTransaction<'_>,
    _lock: &ClaimLock,
    new: &NewBatch<'_>,
    actor: &Actor,
) -> sqlx::Result<Batch> {
    let id = sqlx::query_scalar!(
        "insert into batch (action, risk, plan, plan_version, digest, submitter, reason, state,
             requirements, origin, platform, channel, retry_of)
         values ($1, $2, $3, $12, $4, $5, $6, 'checking', $7, $8, $9, $10, $11)
         returning id",
        new.plan.action,
        new.plan.risk.as_str(),
        Json(new.plan) as _,
        &new.digest.0[..],
        new.submitter,
        new.reason,
        Json(new.requirements) as _,
        Json(new.origin) as _,
        new.announced.map(|location| &location.platform),
        new.announced.map(|location| &location.channel),
        new.retry_of.map(|id| id.0),
        i32::from(new.plan.version)
    )
    .fetch_one(&mut **tx)
    .await?;
    let detail = json!({
        "action": new.plan.action,
        "params": new.plan.params,
        "rollout": new.plan.rollout,
        "digest": new.digest.to_string(),
        "reason": new.reason,
        "requirements": new.requirements,
        "origin": new.origin,
        "retry_of": new.retry_of,
    });
    audit::record(&mut *tx, actor, "batch.submitted", Some(BatchId(id)), detail).await?;
    let batch = get(&mut *tx, BatchId(id)).await?;
    batch.ok_or(sqlx::Error::RowNotFound)
}

/// Reads a batch.
pub async fn get(conn: &mut PgConnection, id: BatchId) -> sqlx::Result<Option<Batch>> {
    sqlx::query_as!(
        Row,
        r#"select id, plan as "plan: Json<Plan>", digest, submitter, reason, state, state_reason,
                  requirements as "requirements: Json<Vec<Requirement>>",
                  origin as "origin: Json<Origin>", platform, channel, retry_of, wave, failures_excused, failed_previously_excused, blocked_by,
                  pause_count, approval_checked_wave, approval_lost_at, approval_round, not_before, created_at, expires_at, started_at, finished_at,
                  coalesce(expires_at <= now(), false) as "overdue!", now() as "now!"
           from batch where id = $1"#,
        id.0
    )
    .fetch_optional(conn)
    .await?
    .map(Batch::try_from)
    .transpose()
}

/// Reads a batch and locks it until the transaction ends: whoever decides about a batch first
/// takes this lock.
pub async fn lock(tx: &mut PgTransaction<'_>, id: BatchId) -> sqlx::Result<Option<Batch>> {
    // Not `for update`: that would make every row that refers to the batch wait.
    sqlx::query!("select id from batch where id = $1 for no key update", id.0)
        .fetch_optional(&mut **tx)
        .await?;
    get(&mut *tx, id).await
}

/// Changes the state of a locked batch, and records who did.
pub async fn apply(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    event: BatchEvent,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<(), ApplyError> {
    let before = batch.state;
    let after = next(before, event)?;
    let not_before = match after {
        BatchState::Scheduled => batch.plan.rollout.starts_at(batch.now),
        // A pause between waves goes on while somebody pauses.
        BatchState::Paused => batch.not_before,
        BatchState::Running if before == BatchState::Paused => batch.not_before,
        _ => None,
    };
    let row = sqlx::query!(
        "update batch set state = $2, state_reason = $3, needs_reconcile = true, blocked_by = null,
             not_before = $5,
             pause_count = pause_count + case when $2 = 'paused' then 1 else 0 end,
             started_at = case when $2 = 'running' then coalesce(started_at, now())
                          -- It waits for approval again, and nothing has begun.
                          when $2 = 'awaiting_approval' then null
                          else started_at end,
             finished_at = case when $4 then now() else finished_at end
         where id = $1
         returning started_at, finished_at, pause_count",
        batch.id.0,
        after.as_str(),
        reason,
        after.is_final(),
        not_before
    )
    .fetch_one(&mut **tx)
    .await?;
    batch.state = after;
    batch.state_reason = reason.map(str::to_owned);
    batch.pause_count = row.pause_count;
    batch.not_before = not_before;
    batch.started_at = row.started_at;
    batch.finished_at = row.finished_at;
    if matches!(before, BatchState::Running | BatchState::Paused) {
        // A worker has to see to those that wait without one.
        super::job::wake(&mut *tx, batch.id).await?;
    }
    let detail = json!({ "from": before, "to": after, "reason": reason });
    audit::record(&mut *tx, actor, "batch.state", Some(batch.id), detail).await?;
    // Only its submitter is notified of a refusal.
    if after != BatchState::Refused {
        card::touch(&mut *tx, batch.id).await?;
    }
    notify(&mut *tx, Topic::Work).await?;
    Ok(())
}

/// Batches whose hosts wait to be checked, oldest first; those whose plans this release understands.
pub async fn checking(conn: &mut PgConnection) -> sqlx::Result<Vec<BatchId>> {
    let ids = sqlx::query_scalar!(
        "select id from batch where state = 'checking' and plan_version <= $1 order by id",
        i32::from(PLAN_VERSION)
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(BatchId).collect())
}

/// Opens the next wave of a running batch; its hosts may start after the pause.
pub async fn open_next_wave(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    pause: Option<std::time::Duration>,
) -> sqlx::Result<()> {
    let row = sqlx::query!(
        "update batch set wave = wave + 1, not_before = now() + $2::interval
         where id = $1 returning wave, not_before",
        batch.id.0,
        pause.map(interval) as _
    )
    .fetch_one(&mut **tx)
    .await?;
    batch.wave = row.wave;
    batch.not_before = row.not_before;
    card::touch(&mut *tx, batch.id).await
}

/// Stores that the time has come for which a locked batch waited.
pub async fn end_wait(tx: &mut PgTransaction<'_>, batch: &mut Batch) -> sqlx::Result<()> {
    sqlx::query!("update batch set not_before = null where id = $1", batch.id.0)
        .execute(&mut **tx)
        .await?;
    batch.not_before = None;
    card::touch(&mut *tx, batch.id).await
}

/// Stores that an operator goes on in spite of this many failures, and of earlier ones. Changes no job:
/// the journal locks jobs before their batch.
pub async fn excuse_failures(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    failures: i32,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update batch set failures_excused = $2, failed_previously_excused = true where id = $1",
        batch.id.0,
        failures
    )
    .execute(&mut **tx)
    .await?;
    (batch.failures_excused, batch.failed_previously_excused) = (failures, true);
    Ok(())
}

/// Batches that changed since the last round of the task rollout, those that a cap blocks,
/// and those whose time has come; new ones first. Those whose plans only a newer release understands
/// are that one's.
pub async fn needing_reconcile(conn: &mut PgConnection) -> sqlx::Result<Vec<BatchId>> {
    let ids = sqlx::query_scalar!(
        // Two questions, so that each can be answered by its own index.
        r#"select id as "id!" from (
               select id, started_at from batch
               where (needs_reconcile or blocked_by is not null)
                 and state in ('scheduled', 'running', 'paused', 'cancelled')
                 and plan_version <= $1
               union
               select id, started_at from batch
               where not_before <= now() and state in ('scheduled', 'running')
                 and plan_version <= $1) found
           -- New ones first; of those that wait for the same cap each is first in turn.
           order by started_at is not null, random() limit 1000"#,
        i32::from(PLAN_VERSION)
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(BatchId).collect())
}

/// Marks batches for the task rollout. A batch that is marked already is written all the
/// same: its row lock makes sure that a round which has just read it, and has not seen what the caller
/// did, is followed by another.
pub async fn request_reconcile(conn: &mut PgConnection, ids: &[BatchId]) -> sqlx::Result<()> {
    mark_needs_reconcile(conn, ids).await?;
    notify(conn, Topic::Work).await
}

/// Marks batches as [`request_reconcile`] does, and wakes nobody.
pub async fn mark_needs_reconcile(conn: &mut PgConnection, ids: &[BatchId]) -> sqlx::Result<()> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    sqlx::query!(
        "update batch set needs_reconcile = true where id in (
             select id from batch where id = any($1) order by id for no key update)",
        &ids
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores why no further hosts of a locked batch start, for people; `None` when they do.
pub async fn set_blocked_by(
    tx: &mut PgTransaction<'_>,
    id: BatchId,
    blocked_by: Option<&str>,
) -> sqlx::Result<()> {
    let changed = sqlx::query!(
        "update batch set blocked_by = $2 where id = $1 and blocked_by is distinct from $2",
        id.0,
        blocked_by
    )
    .execute(&mut **tx)
    .await?;
    if changed.rows_affected() > 0 {
        card::touch(&mut *tx, id).await?;
    }
    Ok(())
}

/// Takes the mark of the task rollout from a locked batch; later changes mark it again.
pub async fn mark_reconciled(tx: &mut PgTransaction<'_>, id: BatchId) -> sqlx::Result<()> {
    sqlx::query!("update batch set needs_reconcile = false where id = $1", id.0)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
