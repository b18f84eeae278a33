//! Signing in to the console: sessions, and limits on failed attempts.
//!
//! Invariant: an attempt is counted against its login and its address before the password is
//! checked, and a login that does not exist is counted like one that does.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use metalbot_store::session;
pub use metalbot_store::session::{close, login_of, open};

/// Attempts without a wait: of one login, and of one address, which may be that of a whole office.
const FREE_BY_LOGIN: i32 = 5;
const FREE_BY_ADDRESS: i32 = 30;

/// An attempt that has been counted.
#[derive(Debug)]
pub struct Attempt {
    login_key: String,
    address_key: Option<String>,
}

/// Counts an attempt; `None` if too many have failed, so that the password must not be checked.
pub async fn begin_attempt(
    pool: &PgPool,
    login: &str,
    address: Option<IpAddr>,
) -> sqlx::Result<Option<Attempt>> {
    // Hashed, because people sometimes type their password where the login belongs.
    let login_key = format!("login:{}", hex::encode(Sha256::digest(login.to_lowercase())));
    let address_key = address.map(address_key);
    if let Some(key) = &address_key
        && !session::count_attempt(pool, key, FREE_BY_ADDRESS).await?
    {
        return Ok(None);
    }
    if !session::count_attempt(pool, &login_key, FREE_BY_LOGIN).await? {
        return Ok(None);
    }
    Ok(Some(Attempt { login_key, address_key }))
}

/// Records that the password was right.
pub async fn succeeded(pool: &PgPool, attempt: Attempt) -> sqlx::Result<()> {
    session::forgive(pool, &attempt.login_key).await?;
    // One right password must not reset the count of the address, which guesses at other logins
    // too.
    if let Some(key) = &attempt.address_key {
        session::uncount(pool, key).await?;
    }
    Ok(())
}

fn address_key(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("addr:{v4}"),
        // One customer commonly holds a /64.
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("addr:{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_login_is_blocked_after_five_attempts_and_freed_by_success(pool: PgPool) {
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        for last in 0..5 {
            assert!(begin_attempt(&pool, "alice", address(last)).await.unwrap().is_some());
        }
        assert!(begin_attempt(&pool, "Alice", address(9)).await.unwrap().is_none());
        assert!(begin_attempt(&pool, "bob", address(9)).await.unwrap().is_some());
        sqlx::query("update login_attempt set blocked_until = now()").execute(&pool).await.unwrap();
        let attempt = begin_attempt(&pool, "alice", address(9)).await.unwrap().unwrap();
        succeeded(&pool, attempt).await.unwrap();
        assert!(begin_attempt(&pool, "alice", address(9)).await.unwrap().is_some());
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn an_address_is_blocked_whatever_login_it_tries(pool: PgPool) {
        let address = Some("2001:db8::1".parse().unwrap());
        for number in 0..30 {
            let attempt = begin_attempt(&pool, &format!("p{number}"), address).await.unwrap();
            assert!(attempt.is_some(), "{number}");
        }
        let neighbour = Some("2001:db8::2".parse().unwrap());
        assert!(begin_attempt(&pool, "q", neighbour).await.unwrap().is_none());
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn sessions_end_by_time_and_by_closing(pool: PgPool) {
        let hour = Duration::from_secs(3600);
        open(&pool, &[1; 32], "alice", hour).await.unwrap();
        open(&pool, &[2; 32], "bob", hour).await.unwrap();
        assert_eq!(login_of(&pool, &[1; 32]).await.unwrap().as_deref(), Some("alice"));
        close(&pool, &[1; 32]).await.unwrap();
        assert_eq!(login_of(&pool, &[1; 32]).await.unwrap(), None);
        sqlx::query("update session set expires_at = now()").execute(&pool).await.unwrap();
        assert_eq!(login_of(&pool, &[2; 32]).await.unwrap(), None);
    }
}
