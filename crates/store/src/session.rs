//! Sessions of the console, and the count of failed sign-ins.
//!
//! Invariant: a token never reaches the database, only its SHA-256; an attempt is counted before
//! the password is looked at, so that parallel guesses cannot outrun the count.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;

/// Who is signed in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub login: String,
    /// SHA-256 of the password's hash that opened it; `None`: not known.
    pub password_digest: Option<Vec<u8>>,
}

/// Opens a session and deletes those that have expired.
pub async fn open(
    pool: &PgPool,
    token_hash: &[u8; 32],
    session: &Session,
    lifetime: Duration,
) -> sqlx::Result<()> {
    sqlx::query!("delete from session where expires_at < now()").execute(pool).await?;
    sqlx::query!(
        "insert into session (token_hash, login, expires_at, password_digest)
         values ($1, $2, now() + $3, $4)",
        token_hash,
        session.login,
        seconds(lifetime),
        session.password_digest
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Session that has not expired.
pub async fn get(pool: &PgPool, token_hash: &[u8; 32]) -> sqlx::Result<Option<Session>> {
    sqlx::query_as!(
        Session,
        "select login, password_digest from session where token_hash = $1 and expires_at > now()",
        token_hash
    )
    .fetch_optional(pool)
    .await
}

/// Records that somebody has signed in with a browser, and forgets browsers of long ago.
pub async fn remember_browser(
    pool: &PgPool,
    token_hash: &[u8; 32],
    login: &str,
) -> sqlx::Result<()> {
    sqlx::query!("delete from known_browser where used_at < now() - interval '400 days'")
        .execute(pool)
        .await?;
    sqlx::query!(
        "insert into known_browser (token_hash, login) values ($1, $2)
         on conflict (token_hash) do update set login = excluded.login, used_at = now()",
        token_hash,
        login
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Whether this login has signed in with this browser.
pub async fn knows_browser(
    pool: &PgPool,
    token_hash: &[u8; 32],
    login: &str,
) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        "select exists (select 1 from known_browser where token_hash = $1 and login = $2) as \"e!\"",
        token_hash,
        login
    );
    found.fetch_one(pool).await
}

pub async fn close(pool: &PgPool, token_hash: &[u8; 32]) -> sqlx::Result<()> {
    sqlx::query!("delete from session where token_hash = $1", token_hash).execute(pool).await?;
    Ok(())
}

/// Counts an attempt under a key before its outcome is known. Returns how long to wait if too many
/// failed within the last time, and then nothing was counted: who tries meanwhile makes it no longer.
///
/// The first `free` attempts cost nothing; each further one doubles a wait that begins at 5 s and
/// ends at `longest`. An hour of quiet forgets all.
pub async fn count_attempt(
    pool: &PgPool,
    key: &str,
    free: i32,
    longest: Duration,
) -> sqlx::Result<Option<Duration>> {
    sqlx::query!("delete from login_attempt where last_at < now() - interval '1 hour'")
        .execute(pool)
        .await?;
    let counted = sqlx::query!(
        "insert into login_attempt as a (key, failures) values ($1, 1)
         on conflict (key) do update set failures = a.failures + 1, last_at = now(),
             blocked_until = case when a.failures + 1 < $2 then '-infinity'::timestamptz
                 else now() + least($3, 5 * power(2, least(a.failures + 1 - $2, 20)))
                              * interval '1 second' end
         where a.blocked_until <= now()",
        key,
        free,
        longest.as_secs_f64()
    )
    .execute(pool)
    .await?;
    if counted.rows_affected() == 1 {
        return Ok(None);
    }
    let left = sqlx::query_scalar!(
        "select extract(epoch from blocked_until - now())::float8 as \"left!\" from login_attempt
         where key = $1",
        key
    );
    let left = left.fetch_optional(pool).await?.unwrap_or_default();
    Ok(Some(Duration::from_secs_f64(left.max(1.0))))
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
