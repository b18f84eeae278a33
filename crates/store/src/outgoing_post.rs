//! Posts to platforms that cannot recognise a key of ours: written before the post, so that a
//! process that dies during the post leaves a mark and not a second message.

use sqlx::PgPool;
use time::OffsetDateTime;

/// State of a post that is about to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begun {
    /// No process has tried.
    Now,
    /// A process tried at that time, and the outcome is not known.
    Before(OffsetDateTime),
    /// Posted as this message.
    Posted(String),
}

/// Stores that the post is about to be made.
pub async fn begin(pool: &PgPool, platform: &str, key: &str) -> sqlx::Result<Begun> {
    let row = sqlx::query!(
        r#"insert into outgoing_post (platform, key) values ($1, $2)
           on conflict (platform, key) do update set started_at = outgoing_post.started_at
           returning message_id, started_at, xmax = 0 as "new!""#,
        platform,
        key
    )
    .fetch_one(pool)
    .await?;
    Ok(match row.message_id {
        Some(message) => Begun::Posted(message),
        None if row.new => Begun::Now,
        None => Begun::Before(row.started_at),
    })
}

/// Stores that it was posted as this message.
pub async fn posted(
    pool: &PgPool,
    platform: &str,
    key: &str,
    message_id: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into outgoing_post (platform, key, message_id) values ($1, $2, $3)
         on conflict (platform, key) do update set message_id = $3",
        platform,
        key,
        message_id
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores that it was certainly not posted.
pub async fn refused(pool: &PgPool, platform: &str, key: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from outgoing_post where platform = $1 and key = $2 and message_id is null",
        platform,
        key
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_post_is_in_doubt_until_its_outcome_is_known(pool: PgPool) {
        assert_eq!(begin(&pool, "slack", "k").await.unwrap(), Begun::Now);
        assert!(matches!(begin(&pool, "slack", "k").await.unwrap(), Begun::Before(_)));
        assert_eq!(begin(&pool, "discord", "k").await.unwrap(), Begun::Now, "another platform's");
        refused(&pool, "slack", "k").await.unwrap();
        assert_eq!(begin(&pool, "slack", "k").await.unwrap(), Begun::Now);
        posted(&pool, "slack", "k", "17.1").await.unwrap();
        refused(&pool, "slack", "k").await.unwrap();
        assert_eq!(begin(&pool, "slack", "k").await.unwrap(), Begun::Posted("17.1".into()));
    }
}
