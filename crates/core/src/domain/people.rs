//! People of the directory, for code that addresses them by login.

use super::principal::Principal;

/// Current directory. Every call may see a newer directory than the one before. A person who has
/// left is not in it.
pub trait People: Send + Sync {
    fn by_login(&self, login: &str) -> Option<Principal>;

    /// Id of the person's user on a chat platform, if the directory has one.
    fn account(&self, login: &str, platform: &str) -> Option<String>;

    /// Mail address by which a platform may know the person.
    fn email(&self, login: &str) -> Option<String>;

    /// Account of the person at a Jira site, for mentions in tickets.
    fn jira_account(&self, login: &str, site: &str) -> Option<String>;
}
