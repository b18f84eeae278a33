//! Work on tickets: what is to be written to Jira, and how far that has come.
//!
//! Invariant: what cannot be repeated, a create and a comment, is marked before it is sent, so that
//! a process that dies leaves a mark and not a gap.

use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgPool, PgTransaction};

use super::error_kind;
use super::relay_scope::RelayScope;
use super::task_lease::interval;
use super::ticket::{TicketTransition, touch_cards};
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::ids::{BatchId, TicketId};
use metalbot_core::domain::triage::TicketTarget;

/// Ticket with something to write.
#[derive(Clone, Debug)]
pub struct Work {
    pub id: TicketId,
    pub fingerprint: String,
    pub batch: BatchId,
    pub error_kind: ErrorKind,
    pub target: TicketTarget,
    pub key: Option<String>,
    pub url: Option<String>,
    pub version: i64,
    /// Version that Jira shows; 0 where it is not known.
    pub rendered_version: i64,
    pub attempts: i32,
    pub refused: bool,
    /// Time since a create was sent whose outcome was not seen.
    pub doubt: Option<Duration>,
    /// Fields that Jira did not take, with its reasons.
    pub rejected_fields: Option<String>,
    /// Logins of people concerned whom Jira does not know.
    pub unknown_accounts: Vec<String>,
    /// Accounts that watch it because we added them.
    pub watchers: Vec<String>,
    /// State to which it is to be moved in its workflow.
    pub pending_transition: Option<TicketTransition>,
}

/// Tickets whose time has come, oldest first. Those that wait for an older one of the same site to
/// be filed are left out, so that tickets are filed in their order and a Jira that is away is asked
/// for one of them at a time.
pub async fn due(pool: &PgPool, scope: &RelayScope, at_most: i64) -> sqlx::Result<Vec<Work>> {
    let (sites, belongs) = scope.parts();
    let rows = sqlx::query!(
        r#"select id, fingerprint, batch_id, error_kind, target as "target: Json<TicketTarget>",
                  jira_key, url, version, rendered_version, attempts,
                  refused_at is not null as "refused!",
                  extract(epoch from now() - create_sent_at)::float8 as doubt, rejected_fields,
                  unknown_accounts, watchers, pending_transition
           from ticket
           where due_at <= now() and (target ->> 'site' = any($2)) = $3
             and (jira_key is null or rendered_version < version or pending_transition is not null
                  or exists (select from ticket_comment
                             where ticket_id = ticket.id and sent_at is null))
             and not exists (
                 select from ticket earlier
                 where earlier.jira_key is null and earlier.id < ticket.id
                   and earlier.target ->> 'site' = ticket.target ->> 'site'
                   and earlier.due_at > now() and earlier.refused_at is null
                   and earlier.create_sent_at is null)
           order by id limit $1"#,
        at_most,
        &sites,
        belongs
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Work {
            id: TicketId(row.id),
            fingerprint: row.fingerprint,
            batch: BatchId(row.batch_id),
            error_kind: error_kind(Some(&row.error_kind)),
            target: row.target.0,
            key: row.jira_key,
            url: row.url,
            version: row.version,
            rendered_version: row.rendered_version,
            attempts: row.attempts,
            refused: row.refused,
            doubt: row.doubt.map(|s| Duration::try_from_secs_f64(s).unwrap_or_default()),
            rejected_fields: row.rejected_fields,
            unknown_accounts: row.unknown_accounts,
            watchers: row.watchers,
            pending_transition: row.pending_transition.as_deref().and_then(TicketTransition::parse),
        })
        .collect())
}

/// Stores that a create is about to be sent. `false`: the ticket has been filed meanwhile.
pub async fn create_begins(pool: &PgPool, id: TicketId) -> sqlx::Result<bool> {
    let marked = sqlx::query!(
        "update ticket set create_sent_at = now() where id = $1 and jira_key is null",
        id.0
    )
    .execute(pool)
    .await?;
    Ok(marked.rows_affected() == 1)
}

/// Stores that nothing was created.
pub async fn create_failed(pool: &PgPool, id: TicketId) -> sqlx::Result<()> {
    sqlx::query!("update ticket set create_sent_at = null where id = $1", id.0)
        .execute(pool)
        .await?;
    Ok(())
}

/// Stores that Jira has the ticket in this version. `false`: it was known before.
pub async fn created(
    tx: &mut PgTransaction<'_>,
    id: TicketId,
    (key, url): (&str, &str),
    version: i64,
    rejected_fields: Option<&str>,
) -> sqlx::Result<bool> {
    let filed = sqlx::query!(
        "update ticket set jira_key = $2, url = $3, rendered_version = $4, rejected_fields = $5,
             create_sent_at = null, refused_at = null, last_error = null, attempts = 0
         where id = $1 and jira_key is null",
        id.0,
        key,
        url,
        version,
        rejected_fields
    )
    .execute(&mut **tx)
    .await?;
    Ok(filed.rows_affected() == 1)
}

/// Stores that Jira shows this version of the ticket.
pub async fn rendered(pool: &PgPool, id: TicketId, version: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update ticket set rendered_version = greatest(rendered_version, $2), attempts = 0,
             last_error = null
         where id = $1",
        id.0,
        version
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores the people concerned whom Jira does not know.
pub async fn set_unknown_accounts(
    pool: &PgPool,
    id: TicketId,
    logins: &[String],
) -> sqlx::Result<()> {
    sqlx::query!("update ticket set unknown_accounts = $2 where id = $1", id.0, logins)
        .execute(pool)
        .await?;
    Ok(())
}

/// Stores that the transition was made, or cannot be made.
pub async fn transition_done(pool: &PgPool, id: TicketId) -> sqlx::Result<()> {
    sqlx::query!(
        "update ticket set pending_transition = null, polled_at = '-infinity' where id = $1",
        id.0
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores the accounts that watch it now because we added them.
pub async fn set_watchers(pool: &PgPool, id: TicketId, accounts: &[String]) -> sqlx::Result<()> {
    sqlx::query!("update ticket set watchers = $2 where id = $1", id.0, accounts)
        .execute(pool)
        .await?;
    Ok(())
}

/// A comment that waits.
#[derive(Clone, Debug)]
pub struct PendingComment {
    pub id: i64,
    pub body: Value,
    /// Set when it was sent and its outcome is not known.
    pub tried: bool,
}

/// The ticket's next comment.
pub async fn next_comment(pool: &PgPool, id: TicketId) -> sqlx::Result<Option<PendingComment>> {
    sqlx::query_as!(
        PendingComment,
        r#"select id, body, tried_at is not null as "tried!" from ticket_comment
           where ticket_id = $1 and sent_at is null order by id limit 1"#,
        id.0
    )
    .fetch_optional(pool)
    .await
}

/// Stores that a comment is about to be sent.
pub async fn comment_begins(pool: &PgPool, comment: i64) -> sqlx::Result<()> {
    sqlx::query!("update ticket_comment set tried_at = now() where id = $1", comment)
        .execute(pool)
        .await?;
    Ok(())
}

/// Stores that the comment was not written; it is sent later.
pub async fn comment_failed(pool: &PgPool, comment: i64) -> sqlx::Result<()> {
    sqlx::query!("update ticket_comment set tried_at = null where id = $1", comment)
        .execute(pool)
        .await?;
    Ok(())
}

/// Stores that the comment was written, or never will be.
pub async fn comment_done(pool: &PgPool, comment: i64) -> sqlx::Result<()> {
    sqlx::query!("update ticket_comment set sent_at = now() where id = $1", comment)
        .execute(pool)
        .await?;
    Ok(())
}

/// Postpones a ticket that Jira did not take now. The cards show it as soon as a ticket that people
/// wait for is late.
pub async fn postpone(pool: &PgPool, work: &Work, wait: Duration, error: &str) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    sqlx::query!(
        "update ticket set attempts = attempts + 1, due_at = now() + $2, last_error = $3
         where id = $1",
        work.id.0,
        interval(wait),
        error
    )
    .execute(&mut *tx)
    .await?;
    if work.key.is_none() && work.attempts == 0 {
        touch_cards(&mut tx, work.id).await?;
    }
    tx.commit().await
}

/// Stores that Jira refuses the ticket. It is sent again after `wait`: somebody may have corrected
/// Jira or the configuration.
pub async fn refused(
    tx: &mut PgTransaction<'_>,
    id: TicketId,
    wait: Duration,
    error: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update ticket set attempts = attempts + 1, refused_at = coalesce(refused_at, now()),
             due_at = now() + $2, last_error = $3
         where id = $1",
        id.0,
        interval(wait),
        error
    )
    .execute(&mut **tx)
    .await?;
    touch_cards(&mut *tx, id).await
}
