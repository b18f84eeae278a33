//! Passwords as argon2id hashes (RFC 9106).
//!
//! Invariant: a login attempt costs one full argon2 run whether or not the person exists, so that
//! its time does not reveal who is in the directory. A run takes tens of milliseconds of CPU and
//! 19 MiB: async callers use [`Hashing`].

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2};

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::directory::Directory;
use metalbot_core::domain::principal::Principal;
use secrecy::{ExposeSecret, SecretString};

/// Passwords that are checked at a time.
const AT_ONCE: usize = 2;
/// Those that may wait for their turn: a second or two.
const WAITING: usize = 32;

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

/// Where passwords are checked: a few at a time, since each takes 19 MiB and a processor, and a few
/// more that wait.
#[derive(Debug)]
pub struct Hashing {
    /// Those that wait as well.
    room: Semaphore,
    at_work: Semaphore,
}

impl Default for Hashing {
    fn default() -> Hashing {
        Hashing { room: Semaphore::new(AT_ONCE + WAITING), at_work: Semaphore::new(AT_ONCE) }
    }
}

impl Hashing {
    /// Does the work when its turn comes, on a thread for blocking work; `None` if there is no room to
    /// wait in.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        let _room = self.room.try_acquire().ok()?;
        let _turn = self.at_work.acquire().await.ok()?;
        Some(tokio::task::spawn_blocking(work).await)
    }
}

/// Returns the person with this login and password; `None` does not reveal which of them is wrong.
pub fn login(directory: &Directory, login: &str, password: &SecretString) -> Option<Principal> {
    let proven = verify(directory.password_hash(login), password);
    directory.by_login(login).filter(|_| proven)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    #[tokio::test]
    async fn two_at_a_time_and_the_rest_wait_or_are_sent_away() {
        let hashing = Hashing::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all = (0..100).map(|_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            hashing.run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(2));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        let done = futures_util::future::join_all(all).await;
        assert_eq!(done.iter().flatten().count(), AT_ONCE + WAITING);
        assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
        assert!(hashing.run(|| ()).await.is_some(), "there is room again");
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
