//! Keys that were seen a moment ago, shared by all replicas.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use super::task_lease::interval;

/// Marks the key as seen; `true` when it was not seen within the window before. Two
/// replicas that ask at once wait for each other.
pub async fn first(conn: &mut PgConnection, key: &str, window: Duration) -> sqlx::Result<bool> {
    let rows = sqlx::query!(
        "insert into dedup_key (key) values ($1)
         on conflict (key) do update set seen_at = now()
             where dedup_key.seen_at < now() - $2::interval",
        key,
        interval(window)
    )
    .execute(conn)
    .await?
    .rows_affected();
    Ok(rows == 1)
}

/// Deletes keys that were seen longer ago than this. Returns how many.
pub async fn forget(pool: &PgPool, older: Duration) -> sqlx::Result<u64> {
    let rows =
        sqlx::query!("delete from dedup_key where seen_at < now() - $1::interval", interval(older))
            .execute(pool)
            .await?;
    Ok(rows.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_key_is_new_once_in_its_window(pool: PgPool) {
        let hour = Duration::from_secs(3600);
        let mut conn = pool.acquire().await.unwrap();
        assert!(first(&mut conn, "a", hour).await.unwrap());
        assert!(!first(&mut conn, "a", hour).await.unwrap());
        assert!(first(&mut conn, "b", hour).await.unwrap());
        assert!(first(&mut conn, "a", Duration::ZERO).await.unwrap(), "its window has passed");
        assert_eq!(forget(&pool, hour).await.unwrap(), 0);
        assert_eq!(forget(&pool, Duration::ZERO).await.unwrap(), 2);
    }
}
