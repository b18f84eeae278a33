//! People of the directory, for code that addresses them by login.

use super::principal::Principal;

/// The directory does not answer. What depends on its answer waits.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the directory does not answer: {0}")]
pub struct DirectoryAway(pub String);

/// Current directory. Every call may see a newer directory than the one before. A person who has
/// left is not in it.
pub trait People: Send + Sync {
    fn by_login(&self, login: &str) -> Option<Principal>;

    /// Asks for a person on whose rights something depends: unlike [`People::by_login`] it tells a
    /// person who has left from a directory that does not answer. A directory that is always there
    /// need not implement it.
    fn ask(&self, login: &str) -> Result<Option<Principal>, DirectoryAway> {
        Ok(self.by_login(login))
    }

    /// Id of the person's user on a chat platform, if the directory has one.
    fn account(&self, login: &str, platform: &str) -> Option<String>;

    /// Mail address by which a platform may know the person.
    fn email(&self, login: &str) -> Option<String>;

    /// Account of the person at a Jira site, for mentions in tickets.
    fn jira_account(&self, login: &str, site: &str) -> Option<String>;
}
