//! The key of the audit's chain, which the database does not hold.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Shortest key, in bytes.
const SHORTEST: usize = 32;

/// A secret of at least 32 bytes. It cannot be changed later: what was sealed with it is verified with it.
#[derive(Clone)]
pub struct AuditKey(Vec<u8>);

/// A key that could be guessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the key must have at least {SHORTEST} characters: openssl rand -hex 32")]
pub struct KeyTooShort;

impl AuditKey {
    pub fn new(secret: &str) -> Result<AuditKey, KeyTooShort> {
        match secret.len() < SHORTEST {
            true => Err(KeyTooShort),
            false => Ok(AuditKey(secret.as_bytes().to_vec())),
        }
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey")
    }
}

/// HMAC-SHA-256 of the parts with the key; SHA-256 without one.
pub(super) fn seal(key: Option<&AuditKey>, parts: &[&[u8]]) -> [u8; 32] {
    match key {
        None => parts.iter().fold(Sha256::new(), Sha256::chain_update).finalize().into(),
        Some(AuditKey(key)) => {
            let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
            parts.iter().fold(mac, hmac::Mac::chain_update).finalize().into_bytes().into()
        }
    }
}
