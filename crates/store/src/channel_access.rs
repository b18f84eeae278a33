//! Answers of platforms about their channels, kept for a while so that they need not be asked each
//! time.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::notifier::{Topic, notify};
use super::task_lease::interval;
use metalbot_core::domain::channel_access::ChannelAccess;
use metalbot_core::domain::inbound::ChatLocation;

/// Time for which an answer holds that a place is open. A card that it does not take after all is
/// noticed by the relay.
const OPEN_HOLDS: Duration = Duration::from_secs(600);
/// Time for which an answer holds that it is closed: whoever was just asked to invite us tries again
/// soon.
const CLOSED_HOLDS: Duration = Duration::from_secs(5);

/// Returns what the platform said of the place, while that answer holds.
pub async fn access(
    conn: &mut PgConnection,
    location: &ChatLocation,
) -> sqlx::Result<ChannelAccess> {
    let answer = sqlx::query_scalar!(
        "select closed from channel_access
         where platform = $1 and channel = $2 and checked_at > now()
             - case when closed is null then $3::interval else $4::interval end",
        location.platform,
        location.channel,
        interval(OPEN_HOLDS),
        interval(CLOSED_HOLDS)
    )
    .fetch_optional(conn)
    .await?;
    Ok(match answer {
        None => ChannelAccess::Unknown,
        Some(None) => ChannelAccess::Open,
        Some(Some(what_to_do)) => ChannelAccess::Closed { what_to_do },
    })
}

/// Stores an answer of the platform; `closed` says what has to be done before the place is open.
pub async fn remember(
    pool: &PgPool,
    location: &ChatLocation,
    closed: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into channel_access (platform, channel, closed) values ($1, $2, $3)
         on conflict (platform, channel) do update
         set closed = excluded.closed, checked_at = now()",
        location.platform,
        location.channel,
        closed
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores that the place has been opened, and makes due what waits for it.
pub async fn opened(pool: &PgPool, location: &ChatLocation) -> sqlx::Result<()> {
    remember(pool, location, None).await?;
    let mut tx = pool.begin().await?;
    sqlx::query!(
        "update card set due_at = now(), attempts = 0 from batch
         where batch.id = card.batch_id and batch.platform = $1 and batch.channel = $2
           and card.rendered_version < card.version and card.refused_at is null",
        location.platform,
        location.channel
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update outbox set due_at = now() from batch
         where batch.id = outbox.batch_id and batch.platform = $1 and batch.channel = $2
           and outbox.kind = 'notice' and outbox.sent_at is null and outbox.refused_at is null",
        location.platform,
        location.channel
    )
    .execute(&mut *tx)
    .await?;
    notify(&mut tx, Topic::Outbox).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_is_closed_is_soon_asked_again(pool: PgPool) {
        let location = |channel: &str| ChatLocation {
            platform: "slack".into(),
            channel: channel.into(),
            thread: None,
        };
        let mut conn = pool.acquire().await.unwrap();
        let (open, shut) = (location("T1/C1"), location("T2/C1"));
        assert_eq!(access(&mut conn, &open).await.unwrap(), ChannelAccess::Unknown);
        remember(&pool, &open, None).await.unwrap();
        remember(&pool, &shut, Some("invite it")).await.unwrap();
        assert_eq!(access(&mut conn, &open).await.unwrap(), ChannelAccess::Open);
        let closed = ChannelAccess::Closed { what_to_do: "invite it".into() };
        assert_eq!(access(&mut conn, &shut).await.unwrap(), closed);
        sqlx::query("update channel_access set checked_at = now() - interval '1 minute'")
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(access(&mut conn, &open).await.unwrap(), ChannelAccess::Open);
        assert_eq!(access(&mut conn, &shut).await.unwrap(), ChannelAccess::Unknown);
        opened(&pool, &shut).await.unwrap();
        assert_eq!(access(&mut conn, &shut).await.unwrap(), ChannelAccess::Open);
    }
}
