//! Sessions of the console, and the count of failed sign-ins.
//!
//! Invariant: a token never reaches the database, only its SHA-256; an attempt is counted before
//! the password is looked at, so that parallel guesses cannot outrun the count.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;

/// Opens a session for a login and deletes those that have expired.
pub async fn open(
    pool: &PgPool,
    token_hash: &[u8; 32],
    login: &str,
    lifetime: Duration,
) -> sqlx::Result<()> {
    sqlx::query!("delete from session where expires_at < now()").execute(pool).await?;
    sqlx::query!(
        "insert into session (token_hash, login, expires_at) values ($1, $2, now() + $3)",
        token_hash,
        login,
        seconds(lifetime)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Login of a session that has not expired.
pub async fn login_of(pool: &PgPool, token_hash: &[u8; 32]) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        "select login from session where token_hash = $1 and expires_at > now()",
        token_hash
    )
    .fetch_optional(pool)
    .await
}

pub async fn close(pool: &PgPool, token_hash: &[u8; 32]) -> sqlx::Result<()> {
    sqlx::query!("delete from session where token_hash = $1", token_hash).execute(pool).await?;
    Ok(())
}

/// Counts an attempt under a key before its outcome is known. `false`: too many failed within the
/// last time, and nothing was counted.
///
/// The first `free` attempts cost nothing; each further one doubles a wait that begins at 5 s and
/// ends at 15 min. An hour of quiet forgets all.
pub async fn count_attempt(pool: &PgPool, key: &str, free: i32) -> sqlx::Result<bool> {
    sqlx::query!("delete from login_attempt where last_at < now() - interval '1 hour'")
        .execute(pool)
        .await?;
    let counted = sqlx::query!(
        "insert into login_attempt as a (key, failures) values ($1, 1)
         on conflict (key) do update set failures = a.failures + 1, last_at = now(),
             blocked_until = case when a.failures + 1 < $2 then '-infinity'::timestamptz
                 else now() + least(900, 5 * power(2, least(a.failures + 1 - $2, 20)))
                              * interval '1 second' end
         where a.blocked_until <= now()",
        key,
        free
    )
    .execute(pool)
    .await?;
    Ok(counted.rows_affected() == 1)
}

/// Resets a key after an attempt that succeeded.
pub async fn forgive(pool: &PgPool, key: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from login_attempt where key = $1", key).execute(pool).await?;
    Ok(())
}

/// Takes back an attempt that succeeded; earlier failures under the key still count.
pub async fn uncount(pool: &PgPool, key: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update login_attempt set failures = greatest(failures - 1, 0), blocked_until = '-infinity'
         where key = $1",
        key
    )
    .execute(pool)
    .await?;
    Ok(())
}

fn seconds(length: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(length.as_micros()).unwrap_or(i64::MAX),
    }
}
