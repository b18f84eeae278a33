//! The batch's message in chat. A card is a projection: changes raise its version, and the
//! relay renders the batch as it then is, so that old progress is never replayed.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::notifier::{Topic, notify};
use super::relay_scope::RelayScope;
use super::task_lease::interval;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::workflow::PLAN_VERSION;

/// A card to be posted (no message yet) or edited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyCard {
    pub batch: BatchId,
    pub platform: String,
    pub channel: String,
    pub message_id: Option<String>,
    /// The address that shows it is known.
    pub has_permalink: bool,
    /// Version, raised by every change.
    pub version: i64,
    pub attempts: i32,
}

impl DirtyCard {
    /// Channel that it belongs to.
    pub fn location(&self) -> ChatLocation {
        let (platform, channel) = (self.platform.clone(), self.channel.clone());
        ChatLocation::channel(platform, channel)
    }
}

/// Marks the card as out of date, creating it with its batch. A batch that is announced nowhere has
/// none.
pub async fn touch(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<()> {
    progress(conn, batch).await?;
    notify(conn, Topic::Outbox).await
}

/// Marks the card as [`touch`] does, for a change that can wait until the relay polls.
pub async fn progress(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into card (batch_id)
         select id from batch where id = $1 and platform is not null
         on conflict (batch_id) do update set version = card.version + 1",
        batch.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Cards that must be posted or may be edited now; new ones first, they answer a command. Those of
/// batches whose plans only a newer release understands are that one's.
pub async fn dirty(
    pool: &PgPool,
    scope: &RelayScope,
    at_most: i64,
) -> sqlx::Result<Vec<DirtyCard>> {
    let (platforms, belongs) = scope.parts();
    let rows = sqlx::query!(
        "select card.batch_id, batch.platform as \"platform!\", batch.channel as \"channel!\", card.message_id, card.version,
                card.attempts, card.permalink is not null as \"has_permalink!\"
         from card join batch on batch.id = card.batch_id
         where card.rendered_version < card.version and card.refused_at is null
           and card.due_at <= now()
           and (batch.platform = any($2)) = $3 and batch.plan_version <= $4
         order by card.message_id is not null, card.due_at limit $1",
        at_most,
        &platforms,
        belongs,
        i32::from(PLAN_VERSION)
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| DirtyCard {
            batch: BatchId(row.batch_id),
            platform: row.platform,
            channel: row.channel,
            message_id: row.message_id,
            has_permalink: row.has_permalink,
            version: row.version,
            attempts: row.attempts,
        })
        .collect())
}

/// Stores that the platform shows this version of the card; the next edit waits for `pause`.
pub async fn rendered(
    pool: &PgPool,
    batch: BatchId,
    message_id: &str,
    version: i64,
    pause: Duration,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update card set message_id = $2, rendered_version = greatest(rendered_version, $3),
             due_at = now() + $4, attempts = 0, last_error = null
         where batch_id = $1",
        batch.0,
        message_id,
        version,
        interval(pause)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores that the platform did not take the card; it is sent again after `wait`.
pub async fn postpone(
    pool: &PgPool,
    batch: BatchId,
    wait: Duration,
    error: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update card set attempts = attempts + 1, due_at = now() + $2, last_error = $3
         where batch_id = $1",
        batch.0,
        interval(wait),
        error
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Postpones a card whose turn has not come; nothing has failed.
pub async fn defer(pool: &PgPool, batch: BatchId, wait: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "update card set due_at = now() + $2 where batch_id = $1",
        batch.0,
        interval(wait)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores that the platform will never show the card.
pub async fn refused(pool: &PgPool, batch: BatchId, error: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update card set refused_at = now(), last_error = $2 where batch_id = $1",
        batch.0,
        error
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The platform, the channel and the message of a batch's card, once it was posted.
pub async fn message_of(
    pool: &PgPool,
    batch: BatchId,
) -> sqlx::Result<Option<(String, String, String)>> {
    let row = sqlx::query!(
        r#"select batch.platform as "platform!", batch.channel as "channel!", card.message_id as "message_id!"
           from card join batch on batch.id = card.batch_id
           where card.batch_id = $1 and card.message_id is not null"#,
        batch.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| (row.platform, row.channel, row.message_id)))
}

/// Stores the address that shows the card.
pub async fn keep_permalink(pool: &PgPool, batch: BatchId, url: &str) -> sqlx::Result<()> {
    sqlx::query!("update card set permalink = $2 where batch_id = $1", batch.0, url)
        .execute(pool)
        .await?;
    Ok(())
}

/// Addresses that show the cards of these batches, as far as they are known.
pub async fn permalinks(
    conn: &mut PgConnection,
    batches: &[BatchId],
) -> sqlx::Result<HashMap<BatchId, String>> {
    let ids: Vec<i64> = batches.iter().map(|batch| batch.0).collect();
    let rows = sqlx::query!(
        r#"select batch_id, permalink as "permalink!" from card
           where batch_id = any($1) and permalink is not null"#,
        &ids
    );
    let rows = rows.fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (BatchId(row.batch_id), row.permalink)).collect())
}

/// Returns whether the batch's card is being sent to this channel: people may see it, and act on it,
/// a moment before its message is known here.
pub async fn is_on_its_way(
    conn: &mut PgConnection,
    batch: BatchId,
    platform: &str,
    channel: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from card join batch on batch.id = card.batch_id
               where card.batch_id = $1 and card.message_id is null
                 and batch.platform = $2 and batch.channel = $3) as "is!""#,
        batch.0,
        platform,
        channel
    )
    .fetch_one(conn)
    .await
}

/// The batch whose card is this message, if it is one.
pub async fn batch_of_message(
    conn: &mut PgConnection,
    platform: &str,
    channel: &str,
    message_id: &str,
) -> sqlx::Result<Option<BatchId>> {
    let id = sqlx::query_scalar!(
        "select card.batch_id from card join batch on batch.id = card.batch_id
         where card.message_id = $3 and batch.platform = $1 and batch.channel = $2",
        platform,
        channel,
        message_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(id.map(BatchId))
}
