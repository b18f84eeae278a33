//! Signing in to the console: sessions, and how often one may try.
//!
//! Invariant: an attempt is counted against its login and its address before the password is looked
//! at, and a login that does not exist is counted like one that does.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use crate::store::session;
pub use crate::store::session::{close, login_of, open};

/// Free attempts of one login, and of one address, which may be that of a whole office.
const FREE_BY_LOGIN: i32 = 5;
const FREE_BY_ADDRESS: i32 = 30;

/// An attempt that has been counted.
#[derive(Debug)]
pub struct Attempt {
    login_key: String,
    address_key: Option<String>,
}

/// Counts an attempt. `None`: too many failed, the password must not be looked at.
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

/// The password was right.
pub async fn succeeded(pool: &PgPool, attempt: Attempt) -> sqlx::Result<()> {
    session::forgive(pool, &attempt.login_key).await?;
    // One good account must not wash an address clean of guesses at the others.
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
