//! Signing in to the console: sessions, and limits on failed attempts.
//!
//! Invariant: an attempt is counted before the password is checked, and a login that does not exist is
//! counted like one that does. Nobody can keep others out: an attempt slows down the pair of its login
//! and its address, and who has signed in from a browser before passes beside whatever others try.

use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use metalbot_store::session;
pub use metalbot_store::session::{Session, close, get, open, remember_browser};

/// Attempts without a wait, and the longest wait after them.
type Allowance = (i32, Duration);

/// One address that tries one login.
const BY_PAIR: Allowance = (5, Duration::from_secs(60));
/// All addresses that try one login: guesses that come from many.
const BY_LOGIN: Allowance = (50, Duration::from_secs(60));
/// One address, which may be that of a whole office.
const BY_ADDRESS: Allowance = (30, Duration::from_secs(10));
/// A browser in which that login has signed in before: what others try does not count.
const BY_BROWSER: Allowance = (10, Duration::from_secs(60));

/// Who tries to sign in.
#[derive(Clone, Copy, Debug)]
pub struct Trying<'a> {
    pub login: &'a str,
    pub address: Option<IpAddr>,
    /// Hash of the token that this browser was given at an earlier sign-in.
    pub browser: Option<[u8; 32]>,
}

/// An attempt that has been counted.
#[derive(Debug)]
pub struct Attempt {
    /// What tells this person from others.
    own: String,
    shared: Vec<String>,
}

/// Too many attempts have failed: the password must not be checked before this time has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Throttled(pub Duration);

/// Counts an attempt.
pub async fn begin_attempt(
    pool: &PgPool,
    trying: Trying<'_>,
) -> sqlx::Result<Result<Attempt, Throttled>> {
    // Hashed, because people sometimes type their password where the login belongs.
    let login = trying.login.to_lowercase();
    let hashed = |parts: &[&str]| hex::encode(Sha256::digest(parts.join("\0")));
    let known = match trying.browser {
        Some(browser) if session::knows_browser(pool, &browser, &login).await? => Some(browser),
        _ => None,
    };
    let mut keys = Vec::new();
    if let Some(browser) = known {
        keys.push((format!("browser:{}", hex::encode(browser)), BY_BROWSER));
    } else {
        let address = trying.address.map(address_key).unwrap_or_default();
        keys.push((format!("pair:{}", hashed(&[&login, &address])), BY_PAIR));
        keys.push((format!("login:{}", hashed(&[&login])), BY_LOGIN));
        if !address.is_empty() {
            keys.push((address, BY_ADDRESS));
        }
    }
    let mut counted: Vec<String> = Vec::new();
    for (key, (free, longest)) in keys {
        if let Some(wait) = session::count_attempt(pool, &key, free, longest).await? {
            // What is not tried does not count.
            for key in &counted {
                session::uncount(pool, key).await?;
            }
            return Ok(Err(Throttled(wait)));
        }
        counted.push(key);
    }
    let own = counted.remove(0);
    Ok(Ok(Attempt { own, shared: counted }))
}

/// Records that the password was right.
pub async fn succeeded(pool: &PgPool, attempt: Attempt) -> sqlx::Result<()> {
    session::forgive(pool, &attempt.own).await?;
    // One right password must not reset the count of an address, which guesses at other logins too, or
    // of a login, at which others guess.
    for key in &attempt.shared {
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
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn session(login: &str) -> Session {
        Session { login: login.into(), password_digest: None }
    }

    async fn tries(pool: &PgPool, login: &str, last: u8, browser: Option<u8>) -> Option<Attempt> {
        let address = Some(IpAddr::from([10, 0, 0, last]));
        let browser = browser.map(|byte| [byte; 32]);
        begin_attempt(pool, Trying { login, address, browser }).await.unwrap().ok()
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn who_guesses_slows_themselves_down_and_nobody_else(pool: PgPool) {
        for _ in 0..5 {
            assert!(tries(&pool, "alice", 1, None).await.is_some());
        }
        for _ in 0..100 {
            assert!(tries(&pool, "Alice", 1, None).await.is_none());
        }
        assert!(tries(&pool, "alice", 2, None).await.is_some(), "from another address");
        assert!(tries(&pool, "bob", 1, None).await.is_some(), "another one from there");
        // The hundred that were not tried have made the wait no longer.
        let trying = Trying { login: "alice", address: Some([10, 0, 0, 1].into()), browser: None };
        let Throttled(wait) = begin_attempt(&pool, trying).await.unwrap().unwrap_err();
        assert!(wait <= Duration::from_secs(5), "{wait:?}");
        sqlx::query("update login_attempt set blocked_until = now()").execute(&pool).await.unwrap();
        let attempt = tries(&pool, "alice", 1, None).await.unwrap();
        succeeded(&pool, attempt).await.unwrap();
        assert!(tries(&pool, "alice", 1, None).await.is_some());
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_browser_that_is_known_passes_beside_them(pool: PgPool) {
        remember_browser(&pool, &[7; 32], "alice").await.unwrap();
        // From one address, with many logins, and from many with one.
        for number in 0..60_u8 {
            let _ = tries(&pool, &format!("p{number}"), 1, None).await;
            let _ = tries(&pool, "alice", number, None).await;
        }
        assert!(tries(&pool, "carol", 1, None).await.is_none());
        assert!(tries(&pool, "alice", 99, None).await.is_none());
        for _ in 0..10 {
            assert!(tries(&pool, "alice", 1, Some(7)).await.is_some());
        }
        assert!(tries(&pool, "alice", 1, Some(7)).await.is_none(), "a stolen cookie does not help");
        assert!(tries(&pool, "carol", 1, Some(7)).await.is_none(), "it is alice's");
        assert!(tries(&pool, "alice", 1, Some(8)).await.is_none(), "nobody's");
    }

    #[test]
    fn one_customer_is_one_address() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::2:0:0:3"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn sessions_end_by_time_and_by_closing(pool: PgPool) {
        open(&pool, &[1; 32], &session("alice"), HOUR).await.unwrap();
        open(&pool, &[2; 32], &session("bob"), HOUR).await.unwrap();
        assert_eq!(get(&pool, &[1; 32]).await.unwrap(), Some(session("alice")));
        close(&pool, &[1; 32]).await.unwrap();
        assert_eq!(get(&pool, &[1; 32]).await.unwrap(), None);
        sqlx::query("update session set expires_at = now()").execute(&pool).await.unwrap();
        assert_eq!(get(&pool, &[2; 32]).await.unwrap(), None);
    }
}
