//! Passwords as argon2id hashes (RFC 9106).
//!
//! Invariant: a login attempt costs one full argon2 run whether or not the person exists, so that
//! its time does not reveal who is in the directory. A run takes tens of milliseconds of CPU and
//! 19 MiB: async callers use `spawn_blocking`.

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2};

use super::directory::Directory;
use metalbot_core::domain::principal::Principal;
use secrecy::{ExposeSecret, SecretString};

/// Error of a password that could not be hashed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("an empty password is no password")]
    Empty,
    #[error("cannot hash the password: {0}")]
    Hash(String),
}

/// Hashes a password with a fresh random salt, in the text form `$argon2id$v=19$...`.
pub fn hash(password: &SecretString) -> Result<String, PasswordError> {
    if password.expose_secret().is_empty() {
        return Err(PasswordError::Empty);
    }
    let hash: PasswordHash = Argon2::default()
        .hash_password(password.expose_secret().as_bytes())
        .map_err(|error| PasswordError::Hash(error.to_string()))?;
    Ok(hash.to_string())
}

/// Returns whether a text is an argon2id hash that [`verify`] can use.
pub fn is_hash(text: &str) -> bool {
    PasswordHash::new(text)
        .is_ok_and(|hash| Algorithm::try_from(hash.algorithm.as_str()) == Ok(Algorithm::Argon2id))
        && text.split('$').count() == 6
}

const NOBODY: &str = "nobody has this one";

/// Hash that is checked for an unknown person, so that it takes the same time.
static DUMMY: LazyLock<String> =
    LazyLock::new(|| hash(&SecretString::from(NOBODY)).unwrap_or_default());

/// Returns whether the password is the one that was hashed. `None` (unknown person, or one without
/// a password) takes the same time and is never right.
pub fn verify(stored: Option<&str>, password: &SecretString) -> bool {
    if password.expose_secret().is_empty() {
        return false;
    }
    let matches = PasswordHash::new(stored.unwrap_or(&DUMMY)).is_ok_and(|hash| {
        Argon2::default().verify_password(password.expose_secret().as_bytes(), &hash).is_ok()
    });
    matches && stored.is_some()
}

/// Returns the person with this login and password; `None` does not reveal which of them is wrong.
pub fn login(directory: &Directory, login: &str, password: &SecretString) -> Option<Principal> {
    let proven = verify(directory.password_hash(login), password);
    directory.by_login(login).filter(|_| proven)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    #[test]
    fn only_the_right_password_verifies() {
        let stored = hash(&secret("correct horse")).unwrap();
        assert!(is_hash(&stored), "{stored}");
        assert_ne!(hash(&secret("correct horse")).unwrap(), stored, "salted");
        assert!(verify(Some(&stored), &secret("correct horse")));
        for wrong in ["", "correct hors", "Correct horse", "nobody has this one"] {
            assert!(!verify(Some(&stored), &secret(wrong)), "{wrong}");
            assert!(!verify(None, &secret(wrong)), "{wrong}");
        }
        assert!(!verify(Some("plain text"), &secret("plain text")));
        assert_eq!(hash(&secret("")), Err(PasswordError::Empty));
    }

    #[test]
    fn only_argon2id_is_a_hash() {
        for wrong in [
            "",
            "hunter2",
            "$argon2id$",
            "$2b$12$abcdefghijklmnopqrstuv",
            "$argon2id$v=19$m=19456,t=2,p=1",
        ] {
            assert!(!is_hash(wrong), "{wrong}");
        }
    }

    #[test]
    fn unknown_people_cost_the_same_work() {
        let stored = hash(&secret("x")).unwrap();
        let cost = |text: &str| text.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert!(is_hash(&DUMMY));
        assert_eq!(cost(&DUMMY), cost(&stored));
        assert!(!verify(None, &secret(NOBODY)));
    }
}
