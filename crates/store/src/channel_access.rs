//! What a platform says about its channels, kept for a while so that it need not be asked each time.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::notifier::{Topic, notify};
use super::task_lease::interval;
use metalbot_core::domain::inbound::ChatLocation;

/// How long a place is believed to be open. A card that it does not take after all is told of.
const BELIEVED: Duration = Duration::from_secs(600);
/// How long it is believed to be closed: somebody who was just told to invite us tries again soon.
const DOUBTED: Duration = Duration::from_secs(5);

/// Whether something said at the place is seen: `None` when the platform must be asked,
/// `Some(Some(why))` when it is not.
pub async fn closed(
    conn: &mut PgConnection,
    location: &ChatLocation,
) -> sqlx::Result<Option<Option<String>>> {
    sqlx::query_scalar!(
        "select closed from channel_access
         where platform = $1 and channel = $2 and checked_at > now()
             - case when closed is null then $3::interval else $4::interval end",
        location.platform,
        location.channel,
        interval(BELIEVED),
        interval(DOUBTED)
    )
    .fetch_optional(conn)
    .await
}

/// The platform was asked, or has shown it.
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

/// The place has been opened: what waits for it is due.
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
        assert_eq!(closed(&mut conn, &open).await.unwrap(), None);
        remember(&pool, &open, None).await.unwrap();
        remember(&pool, &shut, Some("invite it")).await.unwrap();
        assert_eq!(closed(&mut conn, &open).await.unwrap(), Some(None));
        assert_eq!(closed(&mut conn, &shut).await.unwrap(), Some(Some("invite it".into())));
        sqlx::query("update channel_access set checked_at = now() - interval '1 minute'")
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(closed(&mut conn, &open).await.unwrap(), Some(None));
        assert_eq!(closed(&mut conn, &shut).await.unwrap(), None);
        opened(&pool, &shut).await.unwrap();
        assert_eq!(closed(&mut conn, &shut).await.unwrap(), Some(None));
    }
}
